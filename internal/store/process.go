package store

import (
	"fmt"
	"os"
	"strings"
)

// markSign is between what people are told of a process, and its mark.
const markSign = " #"

// thisServer names this process: to a person who meets it from another machine and, by the mark behind [markSign], to
// servers of this machine.
func thisServer() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	name := fmt.Sprintf("process %d on %s", os.Getpid(), host)
	if mark := markOf(os.Getpid()); mark != "" {
		name += markSign + mark
	}
	return name
}

// withoutMark returns what people are told of the process that [thisServer] named.
func withoutMark(name string) string {
	name, _, _ = strings.Cut(name, markSign)
	return name
}

// isGone says whether it is certain that the process which [thisServer] named has ended: it ran on this
// machine, and does not any more. Of one of another machine that is never certain.
func isGone(name string) bool {
	_, mark, ok := strings.Cut(name, markSign)
	return ok && markIsGone(mark)
}
