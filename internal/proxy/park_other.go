//go:build !linux

package proxy

import (
	"errors"
	"time"
)

const parkAfter = time.Second

// parking is for Linux: elsewhere every connection has its goroutine.
type parking struct{}

func newParking() (*parking, error) { return nil, errors.ErrUnsupported }

func (p *parking) park(*fastConn) bool { return false }

func (p *parking) take(*fastConn) bool { return false }

func (p *parking) run() {}

func (p *parking) close() {}

func (p *parking) free() {}
