// Command flaw is a service with planted faults, and a test of it, for the proofs of layover test. As a service it answers with
// ANSWER and what its PEER answered; it fails the paths in FAILS, fails together with a peer whose answer has the text in
// TOGETHER, fails a tenth of the requests to /flaky, and passes no baggage on where DROPS is set.
//
//	flaw serve              listens on PORT
//	flaw ask URL N WANT     asks N times, and fails unless all answers are WANT
package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "serve":
		s := &http.Server{Addr: net.JoinHostPort("127.0.0.1", os.Getenv("PORT")), Handler: http.HandlerFunc(serve), ReadHeaderTimeout: time.Minute}
		return s.ListenAndServe()
	case len(args) == 4 && args[0] == "ask":
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return ask(args[1], n, args[3])
	}
	return errors.New("usage: flaw serve | flaw ask URL N WANT")
}

// seed makes which requests fail the same in every run of a proof.
var random = rand.New(rand.NewPCG(11, uint64(len(os.Getenv("ANSWER")))))

func serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		return
	}
	answer := os.Getenv("ANSWER")
	failed := slices.Contains(strings.Split(os.Getenv("FAILS"), ","), r.URL.Path) || r.URL.Path == "/flaky" && random.IntN(10) == 0
	if peer := os.Getenv("PEER"); peer != "" {
		theirs, status, err := call(r, "http://"+peer+r.URL.Path)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		together := os.Getenv("TOGETHER")
		failed = failed || status != http.StatusOK || together != "" && strings.Contains(theirs, together)
		answer += " " + theirs
	}
	if failed {
		w.WriteHeader(http.StatusInternalServerError)
	}
	_, _ = io.WriteString(w, answer)
}

// call asks the peer, with what an OpenTelemetry SDK would pass on.
func call(r *http.Request, url string) (answer string, status int, err error) {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, url, nil)
	if err != nil {
		return "", 0, err
	}
	req.Header["Traceparent"] = r.Header["Traceparent"]
	if os.Getenv("DROPS") == "" {
		req.Header["Baggage"] = r.Header["Baggage"]
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	return string(text), res.StatusCode, err
}

func ask(url string, n int, want string) error {
	wrong, got := 0, ""
	for range n {
		res, err := http.Get(url) //nolint:noctx // as a test does
		if err != nil {
			return err
		}
		text, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil {
			return err
		}
		if string(text) != want || res.StatusCode != http.StatusOK {
			wrong++
			got = fmt.Sprintf("%d %q", res.StatusCode, text)
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%d of %d answers are not %q, for example %s", wrong, n, want, got)
	}
	return nil
}
