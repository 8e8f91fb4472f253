//go:build unix

package test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/layover-dev/layover/internal/store/postgrestest"
)

// postgres starts a PostgreSQL of the script's own, and sets POSTGRES to its address.
func cmdPostgres(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: postgres")
	}
	address, stop, err := postgrestest.Start()
	ts.Check(err)
	of(ts).stopPostgres = stop
	ts.Defer(func() { of(ts).endPostgres() })
	ts.Setenv("POSTGRES", address)
}

// nopostgres ends the PostgreSQL of the script.
func cmdNoPostgres(ts *testscript.TestScript, neg bool, args []string) { of(ts).endPostgres() }

func (s *script) endPostgres() {
	if s.stopPostgres != nil {
		s.stopPostgres()
		s.stopPostgres = nil
	}
}

// example makes the folder of the script that of examples/database, with its program built and
// the PostgreSQL of the script in layover.yaml.
func cmdExample(ts *testscript.TestScript, neg bool, args []string) {
	file, err := os.ReadFile("../examples/database/layover.yaml")
	ts.Check(err)
	const written = "postgres://postgres@127.0.0.1:5432/postgres"
	if bytes.Count(file, []byte(written)) != 2 {
		ts.Fatalf("the example does not name its database twice")
	}
	text := strings.ReplaceAll(string(file), written, ts.Getenv("POSTGRES"))
	text = strings.ReplaceAll(text, "dir: ../..", "dir: .")
	ts.Check(os.WriteFile(ts.MkAbs("layover.yaml"), []byte(text), 0o600))
	build := exec.Command("go", "build", "-o", filepath.Join(of(ts).work, "bin", "orders"), "../examples/database")
	if out, err := build.CombinedOutput(); err != nil {
		ts.Fatalf("build the example: %v\n%s", err, out)
	}
}

// databases waits until the PostgreSQL of the script has these databases of the example.
func cmdDatabases(ts *testscript.TestScript, neg bool, want []string) {
	of(ts).eventually(ts, "databases", func() error {
		out, err := exec.Command("psql", ts.Getenv("POSTGRES"), "-Atc",
			`SELECT datname FROM pg_database WHERE datname LIKE 'orders%' ORDER BY datname`).CombinedOutput()
		if err != nil {
			return fmt.Errorf("psql: %w: %s", err, out)
		}
		if got := strings.Fields(string(out)); strings.Join(got, " ") != strings.Join(want, " ") {
			return fmt.Errorf("there are %v, and not %v", got, want)
		}
		return nil
	})
}

// post sends a POST request for a host through the proxy, with a header line.
func cmdPost(ts *testscript.TestScript, neg bool, args []string) {
	host, path, _ := strings.Cut(args[0], "/")
	req, err := http.NewRequest(http.MethodPost, "http://"+ts.Getenv("PROXY")+"/"+path, nil)
	ts.Check(err)
	req.Host = host
	for _, line := range args[1:] {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	ts.Check(err)
	_ = res.Body.Close()
	if (res.StatusCode >= http.StatusBadRequest) != neg {
		ts.Fatalf("the answer is %s", res.Status)
	}
}
