//go:build unix

package process

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/near"
)

// plan is all that a supervisor needs to start an instance, and all that a
// server needs to know it again. It holds secrets: its file is for the owner only.
type plan struct {
	Service     string    `json:"service"`
	Version     string    `json:"version"`
	Generation  int64     `json:"generation"`
	Path        string    `json:"path"` // of the program
	Args        []string  `json:"args"` // the command, with its placeholders filled in
	Dir         string    `json:"dir"`  // working directory; empty means the server's
	Env         []string  `json:"env"`
	Port        int       `json:"port"`
	StartedAt   time.Time `json:"started_at"`
	LogFileSize int64     `json:"log_file_size"`
	LogFiles    int       `json:"log_files"`
	ID          string    `json:"id"`
}

// inherited are the variables an instance gets of the server's environment, and
// all that begin with LC_. They say where things are and for whom they are
// made; anything else might be a secret of the server.
func inherited() []string {
	return []string{
		"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ", "LANG", "LANGUAGE",
		"SSL_CERT_FILE", "SSL_CERT_DIR",
	}
}

// marker is the variable that marks every process of an instance with its folder.
const marker = "LAYOVER_INSTANCE"

// newPlan checks a workload and settles its command, environment and port.
func (r *Runtime) newPlan(ctx context.Context, f folder, w control.Workload) (plan, error) {
	run := w.Run.Process
	if run == nil {
		return plan{}, invalid("set run.process, or deploy with --command", "%s has no command to run as a process", w.ID)
	}
	if err := checkStrings(run, w.Env); err != nil {
		return plan{}, err
	}
	if err := checkDir(run.Dir); err != nil {
		return plan{}, err
	}
	port, err := r.ports.pick(ctx, w.ID, w.Port)
	if err != nil {
		return plan{}, err
	}
	fill := map[string]string{"port": strconv.Itoa(port)}
	env := instanceEnv(os.Environ(), w.Env, fill)
	env["PORT"] = strconv.Itoa(port)
	env[marker] = f.path

	var args []string
	for _, arg := range run.Command {
		args = append(args, api.FillPlaceholders(arg, fill))
	}
	path, err := findProgram(args[0], run.Dir, env["PATH"])
	if err != nil {
		return plan{}, err
	}
	p := plan{
		ID: w.ID, Service: w.Service, Version: w.Version, Generation: w.Generation,
		Path: path, Args: args, Dir: run.Dir, Port: port,
		StartedAt:   time.Now().UTC().Round(0),
		LogFileSize: r.opts.LogFileSize, LogFiles: r.opts.LogFiles,
	}
	for _, key := range slices.Sorted(maps.Keys(env)) {
		p.Env = append(p.Env, key+"="+env[key])
	}
	return p, nil
}

// status is that of an instance that runs as planned.
func (p plan) status() control.Status {
	return control.Status{
		ID: p.ID, Service: p.Service, Version: p.Version, Generation: p.Generation,
		Addresses: []control.Address{{HostPort: "127.0.0.1:" + strconv.Itoa(p.Port)}},
		Running:   true, StartedAt: p.StartedAt,
	}
}

func (p plan) workDir() string {
	if p.Dir == "" {
		return "the server's folder"
	}
	return p.Dir
}

// instanceEnv is the part of the server's environment that is handed on, under the workload's own.
func instanceEnv(server []string, own, fill map[string]string) map[string]string {
	env := map[string]string{}
	for _, kv := range server {
		key, value, _ := strings.Cut(kv, "=")
		if slices.Contains(inherited(), key) || strings.HasPrefix(key, "LC_") {
			env[key] = value
		}
	}
	for key, value := range own {
		env[key] = api.FillPlaceholders(value, fill)
	}
	return env
}

// checkStrings refuses what the kernel cannot hand to a process.
func checkStrings(run *api.Process, env map[string]string) error {
	if len(run.Command) == 0 || run.Command[0] == "" {
		return invalid("give the program and its arguments, such as [./cart, --verbose]", "the command is empty")
	}
	for _, arg := range run.Command {
		if strings.ContainsRune(arg, 0) {
			return invalid("remove it", "the argument %q has a zero byte", arg)
		}
	}
	for key, value := range env {
		if key == "" || strings.ContainsAny(key, "=\x00") {
			return invalid("use letters, digits and '_'", "%q cannot name an environment variable", key)
		}
		if strings.ContainsRune(value, 0) {
			return invalid("remove it", "the value of the environment variable %s has a zero byte", key)
		}
	}
	return nil
}

func checkDir(dir string) error {
	if dir == "" {
		return nil
	}
	if !filepath.IsAbs(dir) {
		return invalid("give it from the root, such as /srv/cart", "the working directory %q is not an absolute path", dir)
	}
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return invalid("make it, or correct dir", "there is no working directory %q", dir)
	case err != nil:
		return invalid("make it readable for the server", "the working directory %q cannot be used: %v", dir, err)
	case !info.IsDir():
		return invalid("name a folder", "the working directory %q is not a folder", dir)
	}
	return nil
}

// findProgram finds a program as a shell does: a name without a slash in PATH,
// else the path as it is, relative to dir. Only absolute folders of PATH count.
func findProgram(name, dir, path string) (string, error) {
	if !strings.Contains(name, "/") {
		for _, folder := range filepath.SplitList(path) {
			candidate := filepath.Join(folder, name)
			if filepath.IsAbs(candidate) && checkProgram(candidate) == nil {
				return candidate, nil
			}
		}
		return "", invalid("install it, or give its path, such as ./"+name, "there is no command %q in PATH (%s)%s",
			name, path, nearPrograms(name, filepath.SplitList(path)))
	}
	full := name
	if !filepath.IsAbs(name) {
		full = filepath.Join(dir, name)
	}
	full, err := filepath.Abs(full)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	return full, checkProgram(full)
}

// nearPrograms says which programs of folders have a name near to one that is not there; "" where none has.
func nearPrograms(name string, folders []string) string {
	var names []string
	for _, folder := range folders {
		entries, err := os.ReadDir(folder)
		if err != nil || !filepath.IsAbs(folder) {
			continue
		}
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
	}
	var found []string
	for _, candidate := range slices.Compact(near.Names(name, names, 3*maxNearPrograms)) {
		if slices.ContainsFunc(folders, func(folder string) bool { return checkExecutable(filepath.Join(folder, candidate)) }) {
			found = append(found, candidate)
		}
	}
	if len(found) == 0 {
		return ""
	}
	return "; near it there is " + strings.Join(found[:min(len(found), maxNearPrograms)], ", ")
}

// maxNearPrograms is how many programs a sentence names.
const maxNearPrograms = 3

func checkExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && unix.Access(path, unix.X_OK) == nil
}

func checkProgram(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return invalid("build it first, or correct the path; it is relative to dir", "there is no command %q%s", path,
			nearPrograms(filepath.Base(path), []string{filepath.Dir(path)}))
	case err != nil:
		return invalid("make it readable for the server", "the command %q cannot be used: %v", path, err)
	case !info.Mode().IsRegular():
		return invalid("name a program", "the command %q is not a file", path)
	case unix.Access(path, unix.X_OK) != nil:
		return invalid("chmod +x "+path, "the command %q is not executable", path)
	}
	return nil
}

func invalid(hint, format string, args ...any) error {
	return &control.Error{Code: api.CodeInvalid, Message: fmt.Sprintf(format, args...), Hint: hint}
}
