// Package xconnect switches on extended CONNECT (RFC 8441: WebSocket over HTTP/2) in
// net/http.
//
// net/http has the code and keeps it off, for servers whose WebSocket libraries do not know
// it (golang/go#71128). Its only switch is the word http2xconnect=1 in the environment variable
// GODEBUG, read once, when net/http is initialized; a go:debug line does not reach it. So
// the word has to be there before: this package imports nothing but os, and of the
// packages that are ready to be initialized Go takes the one whose import path sorts first
// (section "Program initialization" of the language specification). Ours is ready when
// os is, which net/http needs too, and "github.com/..." sorts before "net/http".
//
// The other ways are worse: a second HTTP/2 stack (golang.org/x/net/http2 has the same
// switch), or the program starting itself again with another environment.
//
// Nothing of this is seen by the instances that the program starts: package proxy, which is
// initialized after net/http, calls [Restore]. A test of package proxy holds that
// the switch is on.
package xconnect

import (
	"os"
	"strings"
)

const (
	variable = "GODEBUG"
	word     = "http2xconnect"
)

// original is what was in the environment; nil where it was left alone.
var original = enable()

// enable sets the switch, unless the person who starts the program has set it.
func enable() *string {
	before := os.Getenv(variable)
	if strings.Contains(before, word+"=") {
		return nil
	}
	after := word + "=1"
	if before != "" {
		after = before + "," + after
	}
	if os.Setenv(variable, after) != nil {
		return nil // only for names and values that no environment can hold
	}
	return &before
}

// Restore makes the environment what it was when the program was started.
func Restore() bool {
	switch {
	case original == nil:
		return false
	case *original == "":
		return os.Unsetenv(variable) == nil
	}
	return os.Setenv(variable, *original) == nil
}
