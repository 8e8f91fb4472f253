package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/internal/handover"
)

// predecessor returns what a running proxy hands over to this process: the one that started
// it, or the one that listens at the --handover socket. There may be none.
func (s *standAlone) predecessor(ctx context.Context) (*handover.Offer, error) {
	var conn *net.UnixConn
	var err error
	if fd := s.app.env(handover.Environment); fd != "" {
		conn, err = handover.Inherited(fd)
	} else if s.opts.Handover != "" {
		conn, err = handover.Dial(ctx, s.opts.Handover)
	}
	if conn == nil || err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.ReadyWithin)
	defer cancel()
	return handover.Take(ctx, conn)
}

// awaitSuccessor hands the listeners over when SIGHUP or a new process asks for it, as
// often as it takes. Once another process serves in the place of this one, it calls
// end and returns. It returns, too, when ctx ends.
func (s *standAlone) awaitSuccessor(ctx context.Context, end func()) error {
	group, ctx := errgroup.WithContext(ctx)
	asked := make(chan *net.UnixConn)
	leave := func() {}
	if s.opts.Handover != "" {
		door, err := handover.Listen(ctx, s.opts.Handover)
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { _ = door.Close() })
		defer stop()
		leave = func() { _ = door.Close() } // the next one asks the successor
		group.Go(func() error { return admit(ctx, door, asked) })
	}
	group.Go(func() error {
		for {
			var err error
			select {
			case <-s.hangup:
				err = s.restart(ctx)
			case conn := <-asked:
				err = s.give(ctx, conn)
			case <-ctx.Done():
				return nil
			}
			if err == nil {
				leave()
				s.retire(ctx, end)
				return nil
			}
			if ctx.Err() != nil {
				return nil
			}
			s.log.Error("the hand-over failed; this process goes on", "err", err)
		}
	})
	return group.Wait()
}

// admit accepts the processes that ask to take over.
func admit(ctx context.Context, door *net.UnixListener, asked chan<- *net.UnixConn) error {
	for {
		conn, err := door.AcceptUnix()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			if conn != nil {
				_ = conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for a successor: %w", err)
		}
		select {
		case asked <- conn:
		case <-ctx.Done():
			_ = conn.Close()
			return nil
		}
	}
}

// restart starts the program's file anew, as it is on disk now, and hands over to it.
func (s *standAlone) restart(ctx context.Context) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	s.app.say("handing over to %s\n", program)
	cmd := exec.Command(program, os.Args[1:]...) //nolint:gosec,noctx // this very program, which outlives this process
	for _, v := range s.app.Environ {
		if !strings.HasPrefix(v, handover.Environment+"=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	conn, err := handover.Spawn(cmd)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	err = s.give(ctx, conn)
	if err == nil {
		return nil
	}
	_ = cmd.Process.Kill() // it cannot serve, and must not try later
	return errors.Join(err, <-ended)
}

// give hands the listeners to the process at the other end of conn.
func (s *standAlone) give(ctx context.Context, conn *net.UnixConn) error {
	if err := s.follower.Save(); err != nil {
		s.log.Warn("the new process does not find the newest table on disk", "err", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.opts.ReadyWithin, fmt.Errorf("the new process was not ready within %s", s.opts.ReadyWithin))
	defer cancel()
	var sockets []handover.Socket
	for _, one := range s.sockets() {
		sockets = append(sockets, handover.Socket{Name: one.name, Listener: one.gate.TCPListener})
	}
	return handover.Give(ctx, conn, os.Getpid(), sockets)
}

// retire ends this process in favour of its successor: it accepts nothing more, answers what
// still comes over kept connections with the request to make a new one, and then drains.
func (s *standAlone) retire(ctx context.Context, end func()) {
	for _, one := range s.sockets() {
		s.shut(one)
	}
	s.follower.Retire()
	s.observer.proxy.Retire()
	if s.observer.receiver != nil {
		s.observer.receiver.Retire()
	}
	s.app.say("handed over; draining\n")
	select {
	case <-time.After(s.opts.Linger):
	case <-ctx.Done():
	}
	close(s.lingered) // before the drain, which may take long: what was received is sent meanwhile
	end()
}

func (s *standAlone) shut(one socket) {
	if err := one.gate.Shut(); err != nil {
		s.log.Error("a listener that was handed over is still accepted on", "err", err)
	}
}

// notify tells systemd, where that started the proxy, that this process serves and is the one
// to watch; see sd_notify(3).
func (s *standAlone) notify() {
	path := s.app.env("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err == nil {
		_, err = fmt.Fprintf(conn, "MAINPID=%d\nREADY=1\n", os.Getpid())
		err = errors.Join(err, conn.Close())
	}
	if err != nil {
		s.log.Warn("systemd does not learn that the proxy is ready", "err", err)
	}
}
