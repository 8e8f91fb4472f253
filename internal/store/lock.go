package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// fileLock is the right to use a store: an exclusive lock of the operating
// system on a file beside it. The kernel takes it back when the process ends, however it ends.
// The file stays: deleting it would let two processes lock two files of one name.
type fileLock struct {
	file *os.File
}

// holder is what the lock file says about the process that has the lock.
type holder struct {
	PID   int       `json:"pid"`
	Mark  string    `json:"mark,omitempty"` // see markOf
	Since time.Time `json:"since"`
}

// lockFile takes the lock of the store at path. It waits only where the process that took it has ended.
func lockFile(ctx context.Context, path string) (*fileLock, error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	free, err := awaitLock(ctx, f)
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case err != nil:
		err = &control.Error{
			Code:    api.CodeUnavailable,
			Message: fmt.Sprintf("the store %s cannot be locked: %v", path, err),
			Hint:    "keep the store on a local disk; --data names its folder",
			Err:     err,
		}
	case !free:
		err = inUse(path, f)
	default:
		err = writeHolder(f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &fileLock{file: f}, nil
}

// lockLingers is how long the lock of a process is waited for that has ended. One that is killed while it starts
// another leaves the lock to that, for the moment until it has become another program.
const lockLingers = 5 * time.Second

// awaitLock says whether it could lock f.
func awaitLock(ctx context.Context, f *os.File) (bool, error) {
	const look = 10 * time.Millisecond
	end := time.Now().Add(lockLingers)
	for {
		free, err := tryLock(f)
		if free || err != nil || !hasEnded(f) || time.Now().After(end) {
			return free, err
		}
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// release gives the lock up.
func (l *fileLock) release() error {
	return errors.Join(l.file.Truncate(0), unlock(l.file), l.file.Close())
}

// hasEnded says whether it is certain that the process which wrote f has.
func hasEnded(f *os.File) bool {
	h, err := readHolder(f)
	return err == nil && markIsGone(h.Mark)
}

// inUse returns the error that names the process which has the lock.
func inUse(path string, f *os.File) error {
	e := &control.Error{
		Code:    api.CodeConflict,
		Message: fmt.Sprintf("the store %s is in use by another layover server", path),
		Hint:    "end that server first, or name another folder with --data",
	}
	if h, err := readHolder(f); err == nil && h.PID > 0 {
		e.Message += fmt.Sprintf(": process %d, since %s", h.PID, h.Since.Local().Format(time.DateTime))
		e.Hint = fmt.Sprintf("end that server first (kill %d), or name another folder with --data", h.PID)
	}
	return e
}

func readHolder(f *os.File) (h holder, err error) {
	const longest = 4 << 10
	return h, json.NewDecoder(io.NewSectionReader(f, 0, longest)).Decode(&h)
}

func writeHolder(f *os.File) error {
	data, err := json.Marshal(holder{PID: os.Getpid(), Mark: markOf(os.Getpid()), Since: time.Now()})
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	return err
}
