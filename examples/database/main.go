// Command orders is an example of a service whose versions each have a PostgreSQL database of
// their own:
//
//	orders            serves GET /orders and POST /orders?item=NAME from DATABASE_URL
//	orders setup      makes the version's database from a template, and brings it up to date
//	orders teardown   drops it
//
// The hooks are told by Layover which version it is (LAYOVER_ID), and by layover.yaml where the
// databases are (ADMIN_DATABASE_URL). Both may run several times.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "orders:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to undo
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 0:
		return serve(ctx, os.Getenv("DATABASE_URL"), os.Getenv("PORT"))
	case len(args) == 1 && args[0] == "setup":
		address, err := setUp(ctx, os.Getenv("ADMIN_DATABASE_URL"), os.Getenv("LAYOVER_ID"))
		if err != nil {
			return err
		}
		fmt.Println("layover-output: DATABASE_URL=" + address)
		return nil
	case len(args) == 1 && args[0] == "teardown":
		return tearDown(ctx, os.Getenv("ADMIN_DATABASE_URL"), os.Getenv("LAYOVER_ID"))
	}
	return errors.New("usage: orders [setup|teardown]")
}

func serve(ctx context.Context, address, port string) error {
	pool, err := connect(ctx, address)
	if err != nil {
		return err
	}
	defer pool.Close()
	server := &http.Server{Addr: "127.0.0.1:" + port, Handler: handler(pool), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return server.Shutdown(context.WithoutCancel(ctx))
	}
}
