package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// databases is what the hooks of versions set up and take down, outside of all that Layover knows of.
type databases struct {
	url string // for the hooks, processes and containers alike

	mu    sync.Mutex
	exist map[string]bool // by LAYOVER_ID
	busy  map[string]bool
	twice map[string]bool // that two hooks were at work on at a time
}

// hookTakes is how long a hook is at work, for another one of the same version to come upon it.
const hookTakes = 100 * time.Millisecond

// serveDatabases serves hooks until stop is called.
func serveDatabases(ctx context.Context, containers bool) (db *databases, stop func(), err error) {
	host := "127.0.0.1"
	if containers {
		text, err := exec.CommandContext(ctx, "docker", "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").Output()
		if err != nil {
			return nil, nil, fmt.Errorf("docker network inspect bridge: %w", err)
		}
		host = strings.TrimSpace(string(text))
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, nil, err
	}
	db = &databases{url: "http://" + l.Addr().String(), exist: map[string]bool{}, busy: map[string]bool{}, twice: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{hook}/{id}", db.hook)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	return db, func() { _ = errors.Join(server.Close(), <-served) }, nil
}

func (db *databases) hook(w http.ResponseWriter, r *http.Request) {
	hook, id := r.PathValue("hook"), r.PathValue("id")
	db.mu.Lock()
	if db.busy[id] {
		db.twice[id] = true
	}
	db.busy[id] = true
	db.mu.Unlock()
	time.Sleep(hookTakes)
	db.mu.Lock()
	defer db.mu.Unlock()
	db.busy[id] = false
	db.exist[id] = hook == "setup"
	w.WriteHeader(http.StatusNoContent)
}

// wrong says what is not as wanted of a version's database.
func (db *databases) wrong(id string, wanted bool) []string {
	db.mu.Lock()
	defer db.mu.Unlock()
	var out []string
	if db.twice[id] {
		out = append(out, "its hooks run twice at a time")
	}
	switch {
	case wanted && !db.exist[id]:
		out = append(out, "it is not set up")
	case !wanted && db.exist[id]:
		out = append(out, "what was set up is an orphan")
	}
	return out
}
