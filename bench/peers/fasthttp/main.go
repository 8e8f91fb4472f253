// Fasthttp is a bare proxy made of the server and the client of the library of that name:
// one map from host and version to an address. `bench` compares it.
//
//	fasthttp TABLE
//
// It prints its address as JSON, and ends when its standard input does.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strings"

	"github.com/valyala/fasthttp"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: fasthttp TABLE")
	}
	table, err := readTable(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%q\n", l.Addr().String())
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); os.Exit(0) }() // the parent is gone
	log.Fatal(fasthttp.Serve(l, func(ctx *fasthttp.RequestCtx) {
		var key [512]byte
		host := ctx.Host()
		target, ok := table[string(append(append(append(key[:0], host...), '|'), versionIn(ctx.Request.Header.Peek("Baggage"))...))]
		if !ok {
			if target, ok = table[string(host)+"|main"]; !ok {
				ctx.Error("unknown host", fasthttp.StatusNotFound)
				return
			}
		}
		ctx.Request.Header.Del("Connection")
		ctx.Request.Header.Set("X-Forwarded-For", ctx.RemoteIP().String())
		if err := target.Do(&ctx.Request, &ctx.Response); err != nil {
			ctx.Error(err.Error(), fasthttp.StatusBadGateway)
			return
		}
		ctx.Response.Header.Del("Connection")
	}))
}

func readTable(path string) (map[string]*fasthttp.HostClient, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	table, clients := map[string]*fasthttp.HostClient{}, map[string]*fasthttp.HostClient{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		key, address, _ := strings.Cut(lines.Text(), "\t")
		if clients[address] == nil {
			clients[address] = &fasthttp.HostClient{Addr: address}
		}
		table[key] = clients[address]
	}
	return table, lines.Err()
}

// versionIn reads the version from baggage, without the care that it takes to do so rightly.
func versionIn(baggage []byte) []byte {
	_, after, ok := bytes.Cut(baggage, []byte("dynamic_route="))
	if !ok {
		return []byte("main")
	}
	if end := bytes.IndexAny(after, ",;"); end >= 0 {
		after = after[:end]
	}
	return after
}
