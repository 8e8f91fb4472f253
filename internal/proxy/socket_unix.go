//go:build unix

package proxy

import (
	"errors"
	"syscall"
)

// canReadNow says whether sockets can be read without waiting.
const canReadNow = true

// readSocket reads what is there; EAGAIN where nothing is.
func readSocket(fd uintptr, b []byte) (int, error) {
	n, err := syscall.Read(int(fd), b)
	if err != nil {
		return 0, err
	}
	return n, nil
}

// isQuiet says whether an idle socket is as it ought to be: open, and with nothing to read.
func isQuiet(fd uintptr) bool {
	var b [1]byte
	_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR)
}
