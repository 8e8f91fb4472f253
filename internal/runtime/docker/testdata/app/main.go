// Command app is what the tests run in containers. Its first argument says what it does.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	mode := "serve"
	if len(os.Args) > 1 {
		mode = os.Args[1]
	}
	switch mode {
	case "serve":
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGTERM)
		go func() {
			<-ended
			fmt.Println("asked to end")
			os.Exit(0)
		}()
		serve()
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		serve()
	case "exit":
		code, _ := strconv.Atoi(os.Args[2])
		fmt.Fprintln(os.Stderr, "ending with", code)
		os.Exit(code)
	case "log":
		fmt.Println("first")
		time.Sleep(20 * time.Millisecond) // so that the times of the lines order them
		fmt.Fprintln(os.Stderr, "second")
		time.Sleep(20 * time.Millisecond)
		fmt.Println(strings.Repeat("x", 40<<10))
		time.Sleep(20 * time.Millisecond)
		fmt.Print("last, without an end")
	case "eat":
		eat()
	}
}

func serve() {
	http.HandleFunc("/", func(w http.ResponseWriter, req *http.Request) {
		fmt.Println("asked for", req.URL.Path)
		fmt.Fprint(w, "hello")
	})
	http.HandleFunc("/env", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, strings.Join(os.Environ(), "\n"))
	})
	http.HandleFunc("/args", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, strings.Join(os.Args[1:], "\n"))
	})
	http.HandleFunc("/call", func(w http.ResponseWriter, req *http.Request) {
		resp, err := http.Get(req.URL.Query().Get("url"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		_, _ = io.Copy(w, resp.Body)
	})
	if err := http.ListenAndServe(":"+os.Getenv("PORT"), nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// eat takes memory until something stops it.
func eat() {
	var all [][]byte
	for {
		piece := make([]byte, 4<<20)
		for i := range piece {
			piece[i] = byte(i)
		}
		all = append(all, piece)
		fmt.Println("took", len(all)*4, "MiB")
	}
}
