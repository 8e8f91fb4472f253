package handover

import (
	"context"
	"errors"
	"net"
	"os/exec"
)

var errWindows = errors.New("sockets cannot be handed over on Windows")

func send(*net.UnixConn, []byte, []Socket) error { return errWindows }

func receive(*net.UnixConn) ([]byte, []*net.TCPListener, error) { return nil, nil, errWindows }

// Spawn is not possible here.
func Spawn(*exec.Cmd) (*net.UnixConn, error) { return nil, errWindows }

// Inherited is not possible here.
func Inherited(string) (*net.UnixConn, error) { return nil, errWindows }

// Dial is not possible here.
func Dial(context.Context, string) (*net.UnixConn, error) { return nil, errWindows }

// Listen is not possible here.
func Listen(context.Context, string) (*net.UnixListener, error) { return nil, errWindows }
