package handover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// send writes line with the sockets. They are passed as they are: to take a file of a
// listener would put it into blocking mode, for both processes.
func send(conn *net.UnixConn, line []byte, sockets []Socket) error {
	var fds []int
	var pass func(left []Socket) error
	pass = func(left []Socket) error {
		if len(left) > 0 {
			raw, err := left[0].Listener.SyscallConn()
			if err != nil {
				return err
			}
			var inner error
			err = raw.Control(func(fd uintptr) { // which is valid in here
				fds = append(fds, int(fd))
				inner = pass(left[1:])
			})
			return errors.Join(err, inner)
		}
		n, _, err := conn.WriteMsgUnix(line, unix.UnixRights(fds...), nil)
		if err == nil && n < len(line) { // the sockets went with the first part
			_, err = conn.Write(line[n:])
		}
		return err
	}
	return pass(sockets)
}

// receive reads a line and the sockets that come with it. The sockets are open on an
// error, too.
func receive(conn *net.UnixConn) (line []byte, listeners []*net.TCPListener, err error) {
	data, rights := make([]byte, maxLine), make([]byte, unix.CmsgSpace(4*maxSockets))
	n, oobn, _, _, err := conn.ReadMsgUnix(data, rights)
	if err != nil || n == 0 {
		return nil, nil, errors.Join(err, errors.New("the other process said nothing"))
	}
	if listeners, err = parseRights(rights[:oobn]); err != nil {
		return nil, listeners, err
	}
	for bytes.IndexByte(data[:n], '\n') < 0 {
		more, err := conn.Read(data[n:])
		if n += more; err != nil {
			return nil, listeners, err
		}
		if n == len(data) {
			return nil, listeners, fmt.Errorf("the first line is longer than %d bytes", maxLine)
		}
	}
	return data[:bytes.IndexByte(data[:n], '\n')], listeners, nil
}

func parseRights(oob []byte) ([]*net.TCPListener, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var listeners []*net.TCPListener
	var errs []error
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			l, err := listener(fd)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			listeners = append(listeners, l)
		}
	}
	return listeners, errors.Join(errs...)
}

func listener(fd int) (*net.TCPListener, error) {
	f := os.NewFile(uintptr(fd), "handed over")
	defer func() { _ = f.Close() }() // the listener has a copy
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		_ = l.Close()
		return nil, fmt.Errorf("a socket that was handed over is no TCP listener but %T", l)
	}
	return tcp, nil
}

// Spawn starts cmd with one end of a new connection at a file descriptor that
// [Environment] names to it, and returns the other end. The command's environment must be set.
func Spawn(cmd *exec.Cmd) (*net.UnixConn, error) {
	ends, err := socketpair()
	if err != nil {
		return nil, fmt.Errorf("make a connection for the hand-over: %w", err)
	}
	theirs := os.NewFile(uintptr(ends[1]), "hand-over")
	defer func() { _ = theirs.Close() }()
	ours, err := unixConn(ends[0])
	if err != nil {
		return nil, err
	}
	const firstExtra = 3 // behind the standard streams
	cmd.Env = append(cmd.Env, Environment+"="+strconv.Itoa(firstExtra+len(cmd.ExtraFiles)))
	cmd.ExtraFiles = append(cmd.ExtraFiles, theirs)
	if err := cmd.Start(); err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("start the new process: %w", err)
	}
	return ours, nil
}

// socketpair makes two connected sockets that no process inherits by accident.
func socketpair() ([2]int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(ends[0])
		unix.CloseOnExec(ends[1])
	}
	return ends, err
}

// Inherited returns the connection to the process that started this one with [Spawn];
// value is what [Environment] has.
func Inherited(value string) (*net.UnixConn, error) {
	fd, err := strconv.Atoi(value)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("%s is %q, and should be the number of a file descriptor", Environment, value)
	}
	unix.CloseOnExec(fd)
	return unixConn(fd)
}

func unixConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "hand-over")
	if f == nil {
		return nil, fmt.Errorf("the file descriptor %d is none", fd)
	}
	defer func() { _ = f.Close() }() // the connection has a copy
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("the file descriptor %d is no connection: %w", fd, err)
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		return nil, fmt.Errorf("the file descriptor %d is no Unix socket", fd)
	}
	return u, nil
}

// Dial connects to the process that listens at path, and returns nil where none does.
func Dial(ctx context.Context, path string) (*net.UnixConn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, nil //nolint:nilnil // nobody to take over from is no error
	}
	if err != nil {
		return nil, fmt.Errorf("ask the process at %s for its sockets: %w", path, err)
	}
	return conn.(*net.UnixConn), nil
}

// Listen listens at path, in the place of whoever did before. Only processes of the same user
// can connect.
func Listen(ctx context.Context, path string) (*net.UnixListener, error) {
	temporary := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", temporary)
	if err != nil {
		return nil, fmt.Errorf("listen for a successor at %s: %w", path, err)
	}
	u := l.(*net.UnixListener)
	u.SetUnlinkOnClose(false) // the file may be the successor's by then
	if err := errors.Join(os.Chmod(temporary, 0o600), os.Rename(temporary, path)); err != nil {
		_ = os.Remove(temporary)
		_ = u.Close()
		return nil, fmt.Errorf("listen for a successor at %s: %w", path, err)
	}
	return u, nil
}
