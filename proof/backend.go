package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// backendCommand as the first argument makes this program an instance of a service.
const backendCommand = "proof-backend"

// sick is the generation that answers requests, and says that it is not healthy.
const sick = "sick"

// backend is an instance that says who it is: its version, and the generation that its
// second argument names. It streams, and takes bodies. After SIGTERM it ends what is in flight.
func backend(args []string) (code int, ok bool) {
	if len(args) != 3 || args[1] != backendCommand {
		return 0, false
	}
	who := os.Getenv("LAYOVER_VERSION") + " " + args[2]
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, who) // the client may be gone, here and below
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if args[2] == sick {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("POST /{$}", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		_, _ = fmt.Fprintln(w, who, n)
	})
	mux.HandleFunc("GET /stream", func(w http.ResponseWriter, r *http.Request) {
		length, err := time.ParseDuration(r.URL.Query().Get("for"))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(streamStep) {
			_, _ = fmt.Fprintln(w, who)
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = fmt.Fprintln(w, streamEnd)
	})
	server := &http.Server{Addr: net.JoinHostPort("127.0.0.1", os.Getenv("PORT")), Handler: mux, ReadHeaderTimeout: time.Minute}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	down := make(chan error, 1)
	go func() {
		<-ctx.Done()
		down <- server.Shutdown(context.Background())
	}()
	if err := server.ListenAndServe(); ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	if err := <-down; err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	return 0, true
}

const (
	streamStep = 50 * time.Millisecond
	streamEnd  = "the end"
)
