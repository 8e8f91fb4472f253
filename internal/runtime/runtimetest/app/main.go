// Command app is the small server that runtimes are tested with. It is told by
// its environment how to behave:
//
//	APP_HOST=127.0.0.1   listen on this address only
//	APP_PORT=0           listen on this port, whatever PORT says
//	APP_MISSING=/health  answer 404 at this path
//	APP_EAT=1            take memory until there is no more
//	APP_SIGNAL=11        end itself at once by this signal
//	APP_EXIT=3           exit at once with this code
//	APP_LISTEN=no        never listen
//	APP_IGNORE_TERM=1    ignore SIGTERM
//	APP_EXIT_AFTER=2     exit with code 4 after this many requests
//	APP_FORK=1           start a process that ignores SIGTERM and does not listen;
//	                     with "session" it has a session of its own
//	APP_LOG_LINES=1000   write this many lines, numbered, to stdout
//	APP_LONG_LINE=100000 write a line of this many times x
//	APP_SAY=text         write this line to stdout
//	APP_DONE=7           exit with this code once all that is written
//	APP_BINARY=1         write bytes that are no text, and a last line without its end, and exit
//
// It answers / with an [Answer] as JSON, and does what these ask for:
//
//	/log?text=T&stream=stderr   write a line
//	/exit?code=3                exit, after the answer
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Answer is what the app says of itself.
type Answer struct {
	PID  int
	Args []string
	Dir  string
	Env  map[string]string
}

func main() {
	if code, ok := number("APP_EXIT"); ok {
		fmt.Fprintln(os.Stderr, "exiting at once with code", code)
		os.Exit(code)
	}
	if number, ok := number("APP_SIGNAL"); ok {
		_ = syscall.Kill(os.Getpid(), syscall.Signal(number))
		select {}
	}
	if os.Getenv("APP_EAT") != "" {
		eat()
	}
	if os.Getenv("APP_BINARY") != "" {
		fmt.Print("before\n\xff\xfe\x00\x01 binary \xc3\x28\nno end")
		return
	}
	if os.Getenv("APP_IGNORE_TERM") != "" {
		signal.Ignore(syscall.SIGTERM)
	} else {
		exitOnTerm()
	}
	if os.Getenv("APP_FORK") != "" {
		fork()
	}
	writeLog()
	if code, ok := number("APP_DONE"); ok {
		os.Exit(code)
	}
	if os.Getenv("APP_LISTEN") == "no" {
		fmt.Println("not listening")
		time.Sleep(time.Hour)
		return
	}
	serve()
}

// exitOnTerm also makes the app end on SIGTERM where it is process 1 of a container.
func exitOnTerm() {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go func() {
		<-term
		fmt.Println("terminated")
		os.Exit(0)
	}()
}

func fork() {
	self, err := os.Executable()
	if err != nil {
		fail(err)
	}
	child := exec.Command(self)
	child.Env = append(os.Environ(), "APP_FORK=", "APP_LISTEN=no", "APP_IGNORE_TERM=1", "APP_LOG_LINES=", "APP_LONG_LINE=")
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: os.Getenv("APP_FORK") == "session"}
	if err := child.Start(); err != nil {
		fail(err)
	}
}

func writeLog() {
	out := bufio.NewWriter(os.Stdout)
	lines, _ := number("APP_LOG_LINES")
	for i := range lines {
		fmt.Fprintf(out, "line %d of %d\n", i+1, lines)
	}
	if size, ok := number("APP_LONG_LINE"); ok {
		fmt.Fprintln(out, strings.Repeat("x", size))
		fmt.Fprintln(out, "after the long line")
	}
	if text := os.Getenv("APP_SAY"); text != "" {
		fmt.Fprintln(out, text)
	}
	if err := out.Flush(); err != nil {
		fail(err)
	}
}

// eat takes memory until somebody ends it.
func eat() {
	var all [][]byte
	for {
		block := make([]byte, 1<<20)
		for i := range block {
			block[i] = byte(len(all))
		}
		all = append(all, block)
	}
}

func serve() {
	var requests atomic.Int64
	last, limited := number("APP_EXIT_AFTER")
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(answer())
		if limited && requests.Add(1) >= int64(last) {
			exitSoon(w, 4)
		}
	})
	mux.HandleFunc("/log", func(_ http.ResponseWriter, r *http.Request) {
		out := os.Stdout
		if r.FormValue("stream") == "stderr" {
			out = os.Stderr
		}
		fmt.Fprintln(out, r.FormValue("text"))
	})
	mux.HandleFunc("/exit", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		exitSoon(w, code)
	})
	if path := os.Getenv("APP_MISSING"); path != "" {
		mux.HandleFunc(path, http.NotFound)
	}
	port := os.Getenv("PORT")
	if other := os.Getenv("APP_PORT"); other != "" {
		port = other
	}
	address := os.Getenv("APP_HOST") + ":" + port
	fmt.Println("listening on", address)
	server := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	fail(server.ListenAndServe())
}

// exitSoon ends the app once the answer is on its way.
func exitSoon(w http.ResponseWriter, code int) {
	w.Header().Set("Connection", "close")
	_ = http.NewResponseController(w).Flush()
	time.AfterFunc(50*time.Millisecond, func() { os.Exit(code) })
}

func answer() Answer {
	dir, _ := os.Getwd()
	a := Answer{PID: os.Getpid(), Args: os.Args, Dir: dir, Env: map[string]string{}}
	for _, kv := range os.Environ() {
		key, value, _ := strings.Cut(kv, "=")
		a.Env[key] = value
	}
	return a
}

func number(key string) (int, bool) {
	value := os.Getenv(key)
	if value == "" {
		return 0, false
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		fail(fmt.Errorf("%s: %w", key, err))
	}
	return n, true
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "app:", err)
	os.Exit(1)
}
