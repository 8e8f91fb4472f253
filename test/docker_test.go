//go:build unix

package test

import (
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/rogpeppe/go-internal/testscript"
)

// dockerAnswers says whether the Docker Engine of this machine does; scripts have none before they say docker.
func dockerAnswers() bool { return runDocker("version") == nil }

func runDocker(args ...string) error {
	if out, err := exec.Command("docker", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("docker %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// docker gives the script the Docker Engine of this machine: IMAGE is an image of the app, and REGISTRY the
// address of a registry, without a password, that has it as team/cart:feature-2981.
func cmdDocker(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: docker")
	}
	ts.Setenv("DOCKER_HOST", os.Getenv("DOCKER_HOST"))
	app, err := exec.LookPath("app")
	ts.Check(err)
	folder := ts.MkAbs("image")
	ts.Check(os.Mkdir(folder, 0o700))
	ts.Check(os.Link(app, filepath.Join(folder, "app")))
	ts.Check(os.WriteFile(filepath.Join(folder, "Dockerfile"), []byte("FROM scratch\nCOPY app /app\nENTRYPOINT [\"/app\"]\n"), 0o600))

	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	ts.Defer(server.Close)
	address := strings.TrimPrefix(server.URL, "http://")
	image, pushed := "layover-test-"+strings.ToLower(rand.Text()[:8])+":v1", address+"/team/cart:feature-2981"
	ts.Defer(func() { removeImage(image) })
	for _, command := range [][]string{
		{"build", "-q", "-t", image, folder}, {"tag", image, pushed}, {"push", "-q", pushed}, {"rmi", pushed},
	} {
		ts.Check(runDocker(command...))
	}
	ts.Setenv("IMAGE", image)
	ts.Setenv("REGISTRY", address)
}

// removeImage removes an image, and what a script that failed left of it.
func removeImage(image string) {
	left, _ := exec.Command("docker", "ps", "-aq", "--filter", "ancestor="+image).Output()
	for id := range strings.FieldsSeq(string(left)) {
		_ = runDocker("rm", "-f", id)
	}
	_ = runDocker("rmi", "-f", image)
}
