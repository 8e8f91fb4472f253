package ecstest

import (
	"crypto/rand"
	"encoding/hex"
)

// newID returns 32 hexadecimal digits, as the ids of AWS have.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
