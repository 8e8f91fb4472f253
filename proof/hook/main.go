// Command hook is the setup and the teardown of the versions of the proof crash-matrix: it asks the
// address that it is given for a database, or for the end of one.
package main

import (
	"fmt"
	"net/http"
	"os"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	id := os.Getenv("LAYOVER_ID")
	client := http.Client{Timeout: 10 * time.Second}
	answer, err := client.Post(os.Args[1]+"/"+os.Getenv("LAYOVER_HOOK")+"/"+id, "", nil)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusNoContent {
		return fmt.Errorf("%s: %s", answer.Request.URL, answer.Status)
	}
	fmt.Println("layover-output: DATABASE=" + id)
	return nil
}
