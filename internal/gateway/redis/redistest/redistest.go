// Package redistest runs a real Redis for tests and proofs: in memory, on a loopback port of its own.
package redistest

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"
)

// ErrMissing says that there is no Redis to run, and what to do.
var ErrMissing = errors.New("redis-server is not installed: install the package redis-server")

// Password is that of every Redis of this package.
const Password = "secret"

// Server is a Redis that runs, or ran.
type Server struct {
	Address string // host:port, the same after a restart
	dir     string
	cmd     *exec.Cmd
}

const startTimeout = 10 * time.Second

// Start runs a Redis in a folder. The error may be [ErrMissing].
func Start(dir string) (*Server, error) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		return nil, ErrMissing
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{Address: l.Addr().String(), dir: dir}
	if err := l.Close(); err != nil {
		return nil, err
	}
	return s, s.Restart()
}

// Restart runs it again, without its data, after [Server.Stop].
func (s *Server) Restart() error {
	_, port, err := net.SplitHostPort(s.Address)
	if err != nil {
		return err
	}
	s.cmd = exec.Command("redis-server", "-")
	s.cmd.Dir = s.dir
	s.cmd.Stdin = strings.NewReader(fmt.Sprintf("bind 127.0.0.1\nport %s\nsave \"\"\nrequirepass %s\n", port, Password))
	if err := s.cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(startTimeout); ; {
		_, err := s.Do("PING")
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			s.Stop()
			return fmt.Errorf("start redis: %w", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Stop ends it, and with it its data.
func (s *Server) Stop() {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait() // killed
	}
	s.cmd = nil
}

// Do sends one command.
func (s *Server) Do(command string, args ...any) (any, error) {
	c, err := redis.Dial("tcp", s.Address, redis.DialPassword(Password))
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	return c.Do(command, args...)
}

// Keys returns the texts of all keys that match a pattern.
func (s *Server) Keys(pattern string) (map[string]string, error) {
	keys, err := redis.Strings(s.Do("KEYS", pattern))
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, key := range keys {
		value, err := redis.String(s.Do("GET", key))
		if errors.Is(err, redis.ErrNil) {
			continue // it has just gone
		}
		if err != nil {
			return nil, err
		}
		found[key] = value
	}
	return found, nil
}
