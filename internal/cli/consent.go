package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/layover-dev/layover/api"
)

// mayTouch lets a command go on where every version belongs to the user, or to nobody, or
// the user agrees. does says what is about to happen: "stop", or "remove".
func mayTouch(ctx context.Context, app *App, client *api.Client, does string, targets []target, yes bool) error {
	if yes {
		return nil
	}
	var others []api.Version
	for _, t := range targets {
		v, err := client.Version(ctx, t.Service, t.Version)
		if isNotFound(err) {
			continue // the command itself says so
		}
		if err != nil {
			return err
		}
		if v.Owner != "" && !api.SameOwner(v.Owner, app.user()) {
			others = append(others, v)
		}
	}
	if len(others) == 0 {
		return nil
	}
	var whose []string
	for _, v := range others {
		whose = append(whose, v.ID()+" belongs to "+oneLine(v.Owner))
	}
	text := strings.Join(whose, ", ")
	if !app.Asks {
		return usagef(fmt.Sprintf("--yes: %s all the same; the owner sees in the events that you did", does),
			"%s, and not to %s", text, app.user())
	}
	app.say("%s.\n%s all the same? The owner sees that you did. [y/N] ", text, strings.ToUpper(does[:1])+does[1:])
	answer, err := readLine(ctx, app.In)
	if err != nil {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errors.New("nothing was changed")
}

// readLine reads a line, or as much as there is, unless ctx ends before.
func readLine(ctx context.Context, r io.Reader) (string, error) {
	line := make(chan string, 1)
	go func() { // where ctx ends first, it goes on reading until the program ends
		text, _ := bufio.NewReader(io.LimitReader(r, 1<<10)).ReadString('\n')
		line <- text
	}()
	select {
	case text := <-line:
		return text, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
