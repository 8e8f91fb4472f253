//go:build !unix

package proxy

import "errors"

const canReadNow = false

func readSocket(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }

func isQuiet(uintptr) bool { return true }
