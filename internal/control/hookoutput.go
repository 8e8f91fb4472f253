package control

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/layover-dev/layover/api"
)

// A setup gives variables to the instances by lines of its output, which every runtime hands
// on the same way, also from another machine: layover-output: KEY=VALUE.

// outputMark begins a line of standard output that gives a variable.
const outputMark = "layover-output:"

// Bounds of what a setup may give, and of what is kept of the output of a hook.
const (
	maxOutputs     = 64       // variables
	maxOutputBytes = 32 << 10 // of all names and values
	maxOutputValue = 8 << 10  // of one value
	maxHookLines   = 100      // the last ones
	shortestSecret = 6        // what is shorter stands in too many texts to be masked
)

// hidden stands for a value that may be a secret.
const hidden = "***"

// hookOutput is what a hook wrote, as far as it was read: without the values that it gave. It is
// safe for concurrent use.
type hookOutput struct {
	known map[string]string // what earlier setups gave

	mu     sync.Mutex
	lines  []api.LogLine // the last ones
	values map[string]string
	size   int
	bad    error // why a line that gives a variable cannot be used: the first one
}

func newHookOutput(known map[string]string) *hookOutput {
	o := &hookOutput{known: known}
	o.begin()
	return o
}

// begin forgets everything: the log is read from its start again.
func (o *hookOutput) begin() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lines, o.values, o.size, o.bad = nil, map[string]string{}, 0, nil
}

// take takes one line, and returns it as it may be shown.
func (o *hookOutput) take(line api.LogLine) api.LogLine {
	o.mu.Lock()
	defer o.mu.Unlock()
	if given, ok := strings.CutPrefix(line.Text, outputMark); ok && line.Stream == "stdout" {
		if err := o.giveLocked(strings.TrimRight(strings.TrimPrefix(given, " "), "\r")); err != nil && o.bad == nil {
			o.bad = err
		}
	}
	line.Text = o.maskLocked(line.Text)
	kept := line
	kept.Text = bounded(kept.Text, maxTailLine)
	o.lines = append(o.lines, kept)
	o.lines = o.lines[max(0, len(o.lines)-maxHookLines):]
	return line
}

// giveLocked takes KEY=VALUE.
func (o *hookOutput) giveLocked(text string) error {
	name, value, ok := strings.Cut(text, "=")
	switch {
	case !ok || !isOutputName(name):
		return fmt.Errorf("a line %s is not %[1]s KEY=VALUE, where KEY has letters, digits and _", outputMark)
	case isReserved(name):
		return fmt.Errorf("%s is not a variable that a setup may give", name)
	case strings.Contains(value, "\x00"):
		return fmt.Errorf("the value of %s has a NUL byte", name)
	case len(value) > maxOutputValue:
		return fmt.Errorf("the value of %s has more than %d bytes", name, maxOutputValue)
	}
	if before, ok := o.values[name]; ok {
		o.size -= len(name) + len(before)
	}
	o.values[name] = value
	o.size += len(name) + len(value)
	if len(o.values) > maxOutputs || o.size > maxOutputBytes {
		delete(o.values, name)
		return fmt.Errorf("more than %d variables or %d bytes are given", maxOutputs, maxOutputBytes)
	}
	return nil
}

// isOutputName says whether a shell could name a variable so.
func isOutputName(name string) bool { return api.IsVariable(name) && !strings.ContainsAny(name, ".-") }

// isReserved says whether a variable means something else: to Layover, or to every program.
func isReserved(name string) bool {
	return strings.HasPrefix(name, "LAYOVER_") || strings.HasPrefix(name, "LD_") || strings.HasPrefix(name, "DYLD_") ||
		slices.Contains([]string{"PORT", "PATH", "HOME", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"}, name)
}

// maskLocked hides in a line what may be secret: what it gives, also where a shell shows the
// command that gives it, and the values that are known.
func (o *hookOutput) maskLocked(text string) string {
	if at := strings.Index(text, outputMark); at >= 0 {
		name, _, _ := strings.Cut(strings.TrimSpace(text[at+len(outputMark):]), "=")
		shown := text[:at] + outputMark + " " + hidden
		if at == 0 && isOutputName(name) {
			shown = outputMark + " " + name + "=" + hidden
		}
		return shown
	}
	for _, values := range []map[string]string{o.known, o.values} {
		for _, value := range values {
			if len(value) >= shortestSecret {
				text = strings.ReplaceAll(text, value, hidden)
			}
		}
	}
	return text
}

// given returns the variables, and what is wrong with one that cannot be taken.
func (o *hookOutput) given() (map[string]string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.values), o.bad
}

// shown returns the last lines, as they may be shown.
func (o *hookOutput) shown() []api.LogLine {
	o.mu.Lock()
	defer o.mu.Unlock()
	lines := slices.Clone(o.lines)
	for i := range lines { // a value may have been given behind a line that has it
		if !strings.Contains(lines[i].Text, outputMark) {
			lines[i].Text = o.maskLocked(lines[i].Text)
		}
	}
	return lines
}

// withOutputs puts what a setup gave over what earlier ones did.
func withOutputs(before, given map[string]string) (map[string]string, error) {
	out := maps.Clone(before)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, given)
	size := 0
	for name, value := range out {
		size += len(name) + len(value)
	}
	if len(out) > maxOutputs || size > maxOutputBytes {
		return before, fmt.Errorf("with those of earlier setups, more than %d variables or %d bytes are given", maxOutputs, maxOutputBytes)
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}
