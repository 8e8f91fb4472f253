package process

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const serverVariable = "LAYOVER_TEST_SERVER"

func serveForever(string) int { return 0 }

// leftovers lists the folders of an environment, its supervisors and its instances.
func leftovers(t *testing.T, dir string) []string {
	t.Helper()
	var left []string
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, entry := range entries {
		left = append(left, entry.Name())
	}
	for _, pid := range instanceProcesses(t, dir) {
		left = append(left, "process "+strconv.Itoa(pid))
	}
	processes(t, func(pid int, proc string) {
		if line, err := os.ReadFile(filepath.Join(proc, "cmdline")); err == nil && bytes.Contains(line, []byte(superviseArg+"\x00"+dir)) {
			left = append(left, "supervisor "+strconv.Itoa(pid))
		}
	})
	return left
}

// instanceProcesses are the processes that run the test app, by instance.
func instanceProcesses(t *testing.T, dir string) map[string]int {
	t.Helper()
	found := map[string]int{}
	processes(t, func(pid int, proc string) {
		if exe, err := os.Readlink(filepath.Join(proc, "exe")); err != nil || exe != os.Getenv(appVariable) {
			return
		}
		env, err := os.ReadFile(filepath.Join(proc, "environ"))
		if err != nil {
			return
		}
		for kv := range strings.SplitSeq(string(env), "\x00") {
			if id, ok := strings.CutPrefix(kv, marker+"="+dir+"/"); ok {
				require.NotContains(t, found, id, "two processes of one instance")
				found[id] = pid
			}
		}
	})
	return found
}

func processes(t *testing.T, each func(pid int, proc string)) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	require.NoError(t, err)
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			each(pid, filepath.Join("/proc", entry.Name()))
		}
	}
}
