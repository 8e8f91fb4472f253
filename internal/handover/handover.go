// Package handover passes listening sockets from a running process to the one that takes
// its place, so that no connection is refused in between: the sockets are the kernel's, and
// at every moment at least one of the two accepts.
//
// Both speak over a connected Unix socket, whoever made it:
//
//	old -> new   the names of the sockets as a line of JSON, with the sockets themselves
//	new -> old   "ready", once it accepts; or "failed" and why
//	old -> new   "yours": from now on the old one accepts nothing
//
// Where the connection breaks before that last word, the old one goes on as if nothing had
// been, and the new one ends.
package handover

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// Environment is the variable that tells a process at which file descriptor the one before
// it waits with its sockets.
const Environment = "LAYOVER_HANDOVER_FD"

const (
	format     = 1
	maxSockets = 64
	maxLine    = 64 << 10
	maxWords   = 4 << 10
)

// The words of the protocol.
const (
	wordReady  = "ready"
	wordFailed = "failed "
	wordYours  = "yours"
)

// Socket is a listening TCP socket, and what it is for in words that both processes know.
type Socket struct {
	Name     string
	Listener *net.TCPListener
}

// hello is the first line.
type hello struct {
	Format int      `json:"format"`
	PID    int      `json:"pid"`
	Names  []string `json:"names"`
}

// Give hands sockets to the process at the other end of conn, and waits until that is
// ready to serve on them, or ctx ends. When Give returns nil, the sockets are the other's:
// nothing more is to be accepted here. On an error all stays as it was. pid is this
// process, for the other to name. It closes conn.
func Give(ctx context.Context, conn *net.UnixConn, pid int, sockets []Socket) error {
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if len(sockets) > maxSockets {
		return fmt.Errorf("hand over %d sockets: at most %d can be", len(sockets), maxSockets)
	}
	first := hello{Format: format, PID: pid}
	for _, s := range sockets {
		first.Names = append(first.Names, s.Name)
	}
	line, err := json.Marshal(first)
	if err != nil {
		return err
	}
	if err := send(conn, append(line, '\n'), sockets); err != nil {
		return cause(ctx, fmt.Errorf("hand the sockets over: %w", err))
	}
	answer, err := bufio.NewReader(io.LimitReader(conn, maxWords)).ReadString('\n')
	answer = strings.TrimSuffix(answer, "\n")
	if reason, ok := strings.CutPrefix(answer, wordFailed); ok {
		return fmt.Errorf("the new process did not get ready: %s", reason)
	}
	if err != nil {
		return cause(ctx, errors.New("the new process ended before it was ready"))
	}
	if answer != wordReady {
		return fmt.Errorf("the new process says %q, which is none of the words of a hand-over", answer)
	}
	if _, err := conn.Write([]byte(wordYours + "\n")); err != nil {
		return cause(ctx, fmt.Errorf("the new process ended when it was ready: %w", err))
	}
	return nil
}

// Offer is what a process before this one hands over.
type Offer struct {
	PID int // of the other process

	conn    *net.UnixConn
	sockets []Socket
}

// Take reads what the process at the other end of conn hands over. End the offer with
// [Offer.Accept] or [Offer.Refuse].
func Take(ctx context.Context, conn *net.UnixConn) (_ *Offer, err error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	defer func() {
		if err != nil {
			_ = conn.Close()
			err = fmt.Errorf("take over the sockets: %w", cause(ctx, err))
		}
	}()
	line, listeners, err := receive(conn)
	offer := &Offer{conn: conn}
	for _, l := range listeners {
		offer.sockets = append(offer.sockets, Socket{Listener: l})
	}
	if err != nil {
		offer.closeRest()
		return nil, err
	}
	var first hello
	if err := json.Unmarshal(line, &first); err != nil {
		offer.closeRest()
		return nil, fmt.Errorf("the first line is none of a hand-over: %w", err)
	}
	if first.Format != format || len(first.Names) != len(listeners) {
		offer.closeRest()
		return nil, fmt.Errorf("the other process hands over %d sockets for %d names in format %d, and this one knows %d",
			len(listeners), len(first.Names), first.Format, format)
	}
	for i, name := range first.Names {
		offer.sockets[i].Name = name
	}
	offer.PID = first.PID
	return offer, nil
}

// Socket returns the socket with the name, which is the caller's from then on, or nil.
func (o *Offer) Socket(name string) *net.TCPListener {
	for i, s := range o.sockets {
		if s.Name == name && s.Listener != nil {
			o.sockets[i].Listener = nil
			return s.Listener
		}
	}
	return nil
}

// Accept says that this process serves, and waits for the other's word that it accepts
// nothing more. On an error the other goes on, and this one must end. Sockets that nobody
// asked for are closed.
func (o *Offer) Accept(ctx context.Context) error {
	defer o.close()
	stop := context.AfterFunc(ctx, func() { _ = o.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := o.conn.Write([]byte(wordReady + "\n")); err != nil {
		return cause(ctx, errors.New("the process before this one has given up on the hand-over, and goes on"))
	}
	answer, _ := bufio.NewReader(io.LimitReader(o.conn, maxWords)).ReadString('\n')
	if answer != wordYours+"\n" {
		return cause(ctx, errors.New("the process before this one has given up on the hand-over, and goes on"))
	}
	return nil
}

// Refuse tells the other process why this one ends.
func (o *Offer) Refuse(reason error) {
	words := strings.ReplaceAll(reason.Error(), "\n", "; ")
	_ = o.conn.SetDeadline(time.Now().Add(time.Second))
	_, _ = o.conn.Write([]byte(wordFailed + words[:min(len(words), maxWords/2)] + "\n")) // it notices the end by itself, too
	o.close()
}

func (o *Offer) close() {
	_ = o.conn.Close()
	o.closeRest()
}

func (o *Offer) closeRest() {
	for _, s := range o.sockets {
		if s.Listener != nil {
			_ = s.Listener.Close()
		}
	}
	o.sockets = nil
}

// cause is the reason why ctx ended, where it did, else err.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
