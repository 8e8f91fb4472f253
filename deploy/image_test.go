// Package deploy holds what ships Layover, the image and the set-up on Amazon ECS, and tests that hold it to what it says.
package deploy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	root  = ".."
	built = 5 * time.Minute // to build the program from nothing, beside other tests
	up    = time.Minute     // to answer
)

// locked is how a task on Fargate runs, and what is left of a machine to it.
var locked = []string{"--read-only", "--user", "65532:65532", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"}

// TestImage builds the image with Docker and without it, and runs server and proxy in it as the task definitions do.
func TestImage(t *testing.T) {
	t.Parallel()
	if err := exec.Command("docker", "version").Run(); err != nil {
		t.Skip("[docker] no Docker Engine answers: the image is neither built nor run")
	}
	dir := t.TempDir()
	backend := behindOwnAuthority(t, filepath.Join(dir, "ca.pem"))
	configuration := filepath.Join(dir, "layover.yaml")
	require.NoError(t, os.WriteFile(configuration, []byte(`
environment: dev
domain: shop.internal
services:
  cart:
    health: /healthz
    run:
      external: {url: "`+backend+`"}
`), 0o600))

	name := "layover-test-" + strings.ToLower(rand.Text()[:8])
	flags := []string{"--config", configuration, "--ca", filepath.Join(dir, "ca.pem")}
	byDocker, byTar := name+":docker", name+":tar"
	t.Cleanup(func() { _ = exec.Command("docker", "rmi", "-f", byDocker, byTar).Run() })
	runs(t, built, root+"/scripts/image", append(flags, byDocker)...)
	archive := filepath.Join(dir, "layover.tar")
	runs(t, built, root+"/scripts/image", append(flags, "--output", archive, byTar)...)
	docker(t, "load", "-i", archive)

	t.Run("both ways make the same image", func(t *testing.T) {
		require.JSONEq(t, docker(t, "image", "inspect", "-f", "{{json .Config}}", byDocker), docker(t, "image", "inspect", "-f", "{{json .Config}}", byTar))
		require.Equal(t, files(t, byDocker), files(t, byTar))
		again := filepath.Join(dir, "again.tar")
		runs(t, built, root+"/scripts/image", append(flags, "--output", again, byTar)...)
		one, err := os.ReadFile(archive)
		require.NoError(t, err)
		two, err := os.ReadFile(again)
		require.NoError(t, err)
		require.Equal(t, sha256.Sum256(one), sha256.Sum256(two), "two runs give two archives")
	})

	t.Run("it holds little, and runs as nobody in particular", func(t *testing.T) {
		var image struct {
			Size   int64
			Config struct {
				User       string
				Entrypoint []string
				Volumes    map[string]struct{}
			}
		}
		require.NoError(t, json.Unmarshal([]byte(docker(t, "image", "inspect", "-f", "{{json .}}", byDocker)), &image))
		t.Logf("the image has %.1f MB", float64(image.Size)/1e6)
		require.Less(t, image.Size, int64(60e6))
		require.Equal(t, "65532:65532", image.Config.User)
		require.Equal(t, []string{"/layover"}, image.Config.Entrypoint)
		require.Contains(t, image.Config.Volumes, "/data")
		require.Contains(t, docker(t, append(append([]string{"run", "--rm"}, locked...), byDocker, "version", "--json")...), `"client"`)
	})

	t.Run("authorities of this machine are in it", func(t *testing.T) {
		id := docker(t, "create", byDocker)
		t.Cleanup(func() { _ = exec.Command("docker", "rm", "-v", id).Run() })
		docker(t, "cp", id+":/etc/ssl/certs/ca-certificates.crt", filepath.Join(dir, "bundle.pem"))
		bundle, err := os.ReadFile(filepath.Join(dir, "bundle.pem"))
		require.NoError(t, err)
		require.True(t, x509.NewCertPool().AppendCertsFromPEM(bundle))
		require.Greater(t, strings.Count(string(bundle), "BEGIN CERTIFICATE"), 50)
	})

	t.Run("up serves a backend with a certificate of an own authority", func(t *testing.T) {
		address := starts(t, byDocker, []string{"LAYOVER_PROXY_LISTEN=0.0.0.0:8080"},
			"up", "-f", "/etc/layover/layover.yaml", "--data", "/data")
		require.Equal(t, "of the backend", answer(t, "http://"+address+":8080/", "cart.shop.internal"))
	})

	t.Run("server and proxy apart", func(t *testing.T) {
		server := starts(t, byTar, []string{"LAYOVER_SERVER_LISTEN=0.0.0.0:7070"},
			"server", "-f", "/etc/layover/layover.yaml", "--data", "/data")
		require.NotEmpty(t, answer(t, "http://"+server+":7070/healthz", ""))
		proxy := starts(t, byTar, []string{
			"LAYOVER_SERVER=http://" + server + ":7070", "LAYOVER_PROXY_LISTEN=0.0.0.0:8080", "LAYOVER_PROXY_ADMIN=0.0.0.0:7071",
		}, "proxy", "--drain", "5s")
		require.Contains(t, answer(t, "http://"+proxy+":7071/readyz", ""), `"ready": true`)
		require.Equal(t, "of the backend", answer(t, "http://"+proxy+":8080/", "cart.shop.internal"))
	})
}

// behindOwnAuthority starts an HTTPS server that containers reach, and writes the authority of its certificate.
func behindOwnAuthority(t *testing.T, ca string) string {
	t.Helper()
	bridge, err := net.InterfaceByName(docker(t, "network", "inspect", "bridge", "-f", `{{index .Options "com.docker.network.bridge.name"}}`))
	require.NoError(t, err)
	addresses, err := bridge.Addrs()
	require.NoError(t, err)
	gateway, _, _ := strings.Cut(addresses[0].String(), "/")
	listener, err := net.Listen("tcp", net.JoinHostPort(gateway, "0"))
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	certificate := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of a test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.ParseIP(gateway)},
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, certificate, certificate, key.Public(), key)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))

	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "of the backend")
	}))
	server.Listener = listener
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}

// starts runs the image as a task would, and returns the address of the container. At the end SIGTERM has to end it well.
func starts(t *testing.T, image string, env []string, command ...string) string {
	t.Helper()
	args := append([]string{"run", "-d"}, locked...)
	for _, e := range env {
		args = append(args, "-e", e)
	}
	id := docker(t, append(append(args, image), command...)...)
	t.Cleanup(func() {
		_ = exec.Command("docker", "stop", "-t", "30", id).Run()
		log, _ := exec.Command("docker", "logs", id).CombinedOutput()
		code, err := exec.Command("docker", "inspect", "-f", "{{.State.ExitCode}}", id).Output()
		_ = exec.Command("docker", "rm", "-fv", id).Run()
		if t.Failed() {
			t.Logf("layover %s: %s", strings.Join(command, " "), log)
		}
		require.NoError(t, err)
		require.Equal(t, "0", strings.TrimSpace(string(code)), "layover %s: %s", command[0], log)
	})
	return docker(t, "inspect", "-f", "{{.NetworkSettings.IPAddress}}", id)
}

// answer asks until there is an answer of 200.
func answer(t *testing.T, url, host string) string {
	t.Helper()
	var body string
	require.Eventually(t, func() bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
		require.NoError(t, err)
		req.Host = host
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		defer res.Body.Close() //nolint:errcheck // only read
		text, err := io.ReadAll(res.Body)
		body = string(text)
		return err == nil && res.StatusCode == http.StatusOK
	}, up, 100*time.Millisecond, "%s does not answer", url)
	return body
}

// files lists what is in an image, with owners and modes; without what Docker puts there.
func files(t *testing.T, image string) []string {
	t.Helper()
	id := docker(t, "create", image)
	defer func() { _ = exec.Command("docker", "rm", "-v", id).Run() }()
	out, err := exec.Command("sh", "-c", "docker export "+id+" | tar t -v --numeric-owner").CombinedOutput()
	require.NoError(t, err, "%s", out)
	var found []string
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		name := words[len(words)-1]
		if name == "layover" || name == "data/" || name == "tmp/" || strings.HasPrefix(name, "etc/ssl/") || strings.HasPrefix(name, "etc/layover/") || name == "etc/passwd" || name == "etc/group" {
			found = append(found, strings.Join([]string{words[0], words[1], words[2], name}, " "))
		}
	}
	require.Greater(t, len(found), 7, "%s", out)
	return found
}

func docker(t *testing.T, args ...string) string {
	t.Helper()
	return runs(t, up, "docker", args...)
}

// runs runs a program that has to work, and returns what it prints.
func runs(t *testing.T, within time.Duration, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	require.NoError(t, err, "%s %s: %s%s", program, strings.Join(args, " "), out, complaint.String())
	return strings.TrimSpace(string(out))
}
