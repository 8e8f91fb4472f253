package receiver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// memory bounds the bytes that all requests together take while they are taken in. A sender that is slow holds those that it
// has sent, and they are of a room of their own: who has sent all finds room for decoding.
type memory struct {
	reading, decoding         *semaphore.Weighted
	mostReading, mostDecoding int64
	held                      atomic.Int64
}

func newMemory(most int64) *memory {
	reading := max(most/4, 3*maxBody)
	decoding := most - reading
	return &memory{reading: semaphore.NewWeighted(reading), decoding: semaphore.NewWeighted(decoding), mostReading: reading, mostDecoding: decoding}
}

// hold is what one request holds. It is released once, at its end.
type hold struct {
	of               *memory
	reading, decoded int64
}

func (h *hold) release() {
	h.of.reading.Release(h.reading)
	h.of.decoding.Release(h.decoded)
	h.of.held.Add(-h.reading - h.decoded)
	h.reading, h.decoded = 0, 0
}

// decodeWait is how long a request waits for room, as others are decoded.
const decodeWait = 2 * time.Second

// decode takes room for decoding.
func (h *hold) decode(ctx context.Context, n int64) *problem {
	if h.decoded+n > h.of.mostDecoding {
		return tooLarge("decoded, the request takes more memory than there is for all: send smaller batches")
	}
	ctx, cancel := context.WithTimeout(ctx, decodeWait)
	defer cancel()
	if h.of.decoding.Acquire(ctx, n) != nil {
		return busy("too much telemetry comes at a time")
	}
	h.decoded += n
	h.of.held.Add(n)
	return nil
}

var (
	errNoRoom = errors.New("too much telemetry comes at a time")
	errLarge  = errors.New("there is more than may be")
)

// read reads all, at most so many bytes, and takes room for it as it comes.
func (h *hold) read(from io.Reader, most int) ([]byte, error) {
	var text []byte
	for {
		if len(text) == cap(text) {
			n := min(max(32<<10, 2*cap(text)), most+bytes.MinRead)
			if n == cap(text) {
				return nil, errLarge
			}
			if !h.of.reading.TryAcquire(int64(n)) {
				return nil, errNoRoom
			}
			old := int64(cap(text))
			text = append(make([]byte, 0, n), text...)
			h.of.reading.Release(old)
			h.reading += int64(n) - old
			h.of.held.Add(int64(n) - old)
		}
		n, err := from.Read(text[len(text):cap(text)])
		text = text[:len(text)+n]
		switch {
		case len(text) > most:
			return nil, errLarge
		case errors.Is(err, io.EOF):
			return text, nil
		case err != nil:
			return nil, err
		}
	}
}
