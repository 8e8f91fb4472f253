// Layover lets many versions of many services live side by side in one environment.
package main

import (
	"os"

	"github.com/layover-dev/layover/internal/cli"
	"github.com/layover-dev/layover/internal/runtime/process"
)

func main() {
	// Instances of the process runtime run under a supervisor: this program, started by itself.
	if code, ok := process.Supervise(os.Args); ok {
		os.Exit(code)
	}
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
