package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// untilAlone returns a context that also ends when nobody is there any more to look at a
// command: its terminal is closed (SIGHUP), or what reads its output has gone. It is for
// commands that must not leave without having ended what they started. Until the returned
// function is called, neither ends the program by itself.
//
// A SIGHUP that was ignored from the beginning (nohup) stays ignored.
func (a *App) untilAlone(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	out, err := a.Out, a.Err
	a.Out, a.Err = &endingWriter{out, cancel}, &endingWriter{err, cancel}

	// The signal comes for every connection that breaks, those of clients too: which write
	// failed is known to the writers only. Taken like this, it does not end the program.
	pipes := make(chan os.Signal, 1)
	signal.Notify(pipes, syscall.SIGPIPE)

	// A closed terminal often sends several.
	hangups := make(chan os.Signal, 1)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(hangups, syscall.SIGHUP)
	}
	go func() {
		select {
		case <-hangups:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel()
		signal.Stop(hangups)
		signal.Stop(pipes)
		a.Out, a.Err = out, err
	}
}

// endingWriter calls gone when what reads the output has gone.
type endingWriter struct {
	io.Writer
	gone func()
}

func (w *endingWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		w.gone()
	}
	return n, err
}
