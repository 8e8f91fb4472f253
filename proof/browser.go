package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// browser is a headless Chromium, driven by its DevTools protocol over a pipe.
type browser struct {
	cmd     *exec.Cmd
	dir     string
	to      *os.File
	from    *bufio.Reader
	end     *os.File
	last    int
	session string
}

// chromium returns the program, "" where none is installed.
func chromium() string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// openBrowser starts a browser with an empty profile, on a blank page.
func openBrowser(ctx context.Context, program string) (*browser, error) {
	dir, err := os.MkdirTemp("", "layover-browser-")
	if err != nil {
		return nil, err
	}
	b := &browser{dir: dir}
	theirIn, ourOut, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	ourIn, theirOut, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, theirIn.Close(), ourOut.Close(), b.close())
	}
	b.to, b.end, b.from = ourOut, ourIn, bufio.NewReader(ourIn)
	args := []string{"--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe", "--user-data-dir=" + dir}
	if os.Geteuid() == 0 {
		args = append(args, "--no-sandbox") // it refuses to run as root with one
	}
	b.cmd = exec.CommandContext(ctx, program, append(args, "about:blank")...)
	b.cmd.ExtraFiles = []*os.File{theirIn, theirOut} // descriptors 3 and 4
	b.cmd.WaitDelay = time.Second
	err = b.cmd.Start()
	_ = theirIn.Close()
	_ = theirOut.Close()
	if err != nil {
		b.cmd = nil
		return nil, errors.Join(err, b.close())
	}
	if err := b.attach(); err != nil {
		return nil, errors.Join(fmt.Errorf("drive %s: %w", program, err), b.close())
	}
	return b, nil
}

// attach opens a page.
func (b *browser) attach() error {
	var target struct {
		ID string `json:"targetId"`
	}
	if err := b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target); err != nil {
		return err
	}
	var attached struct {
		Session string `json:"sessionId"`
	}
	err := b.call("Target.attachToTarget", map[string]any{"targetId": target.ID, "flatten": true}, &attached)
	b.session = attached.Session
	return err
}

// call does one command, and reads past whatever else is told meanwhile.
func (b *browser) call(method string, params map[string]any, out any) error {
	b.last++
	ask := map[string]any{"id": b.last, "method": method, "params": params}
	if b.session != "" {
		ask["sessionId"] = b.session
	}
	text, err := json.Marshal(ask)
	if err != nil {
		return err
	}
	if err := b.end.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil && !errors.Is(err, os.ErrNoDeadline) {
		return err
	}
	if _, err := b.to.Write(append(text, 0)); err != nil {
		return err
	}
	for {
		line, err := b.from.ReadBytes(0)
		if err != nil {
			return err
		}
		var answer struct {
			ID     int             `json:"id"`
			Result json.RawMessage `json:"result"`
			Error  *struct {
				Message string `json:"message"`
			} `json:"error"`
		}
		if err := json.Unmarshal(line[:len(line)-1], &answer); err != nil {
			return err
		}
		switch {
		case answer.ID != b.last:
		case answer.Error != nil:
			return fmt.Errorf("%s: %s", method, answer.Error.Message)
		default:
			return json.Unmarshal(answer.Result, out)
		}
	}
}

// visit goes to a URL without waiting for it.
func (b *browser) visit(url string) error {
	return b.call("Runtime.evaluate", map[string]any{"expression": fmt.Sprintf("location.href = %q", url)}, &struct{}{})
}

// reads returns the address and the text of the page that is shown.
func (b *browser) reads() (address, text string, err error) {
	var out struct {
		Result struct {
			Value string `json:"value"`
		} `json:"result"`
	}
	err = b.call("Runtime.evaluate", map[string]any{
		"expression": `location.href + "\n" + (document.body ? document.body.innerText : "")`,
	}, &out)
	address, text, _ = strings.Cut(out.Result.Value, "\n")
	return address, text, err
}

func (b *browser) close() error {
	for _, f := range []*os.File{b.to, b.end} {
		if f != nil {
			_ = f.Close()
		}
	}
	if b.cmd != nil {
		_ = b.cmd.Process.Kill()
		_ = b.cmd.Wait() // it was killed: that is the error
	}
	return os.RemoveAll(b.dir)
}
