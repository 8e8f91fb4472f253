package process

import (
	"context"
	"os"
	"strconv"

	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/runtime/sockets"
)

// Diagnose says what the processes of an instance listen on, those that left its process group
// among them. See [control.Diagnoser].
func (r *Runtime) Diagnose(_ context.Context, id string) (control.Facts, error) {
	if !validName.MatchString(id) {
		return control.Facts{}, control.ErrNoInstance
	}
	f := r.folder(id)
	p, err := f.plan()
	if err != nil {
		return control.Facts{}, control.ErrNoInstance
	}
	facts := control.Facts{Port: p.Port}
	listens, err := sockets.Processes(marked(f.path))
	if err == nil {
		facts.Known, facts.Listens = true, listens
	}
	return facts, nil
}

// marked returns the numbers of the processes that bear the marker of a folder.
func marked(folder string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil && isMarked(pid, []byte(marker+"="+folder)) {
			pids = append(pids, pid)
		}
	}
	return pids
}
