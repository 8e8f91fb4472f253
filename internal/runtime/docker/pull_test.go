package docker

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/moby/moby/api/pkg/authconfig"
	registrytypes "github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
)

const (
	registryUser     = "alice"
	registryPassword = "correct-horse"
)

// newRegistry runs a registry that lets only alice in, and returns its address.
func newRegistry(t *testing.T) string {
	t.Helper()
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if user, password, ok := req.BasicAuth(); !ok || user != registryUser || password != registryPassword {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
			return
		}
		handler.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// dockerConfig makes a folder of Docker's configuration the one in use, with these
// contents of its config.json, and an Engine address that does not depend on it.
func dockerConfig(t *testing.T, config string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600))
	t.Setenv("DOCKER_CONFIG", dir)
	return dir
}

func loginConfig(registry, password string) string {
	return fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, registry, base64.StdEncoding.EncodeToString([]byte(registryUser+":"+password)))
}

// push makes an image under a name of the registry, which then is only there.
func push(t *testing.T, engine *client.Client, registry string) string {
	t.Helper()
	source, name := newImage(t, engine), registry+"/team/cart:v1"
	_, err := engine.ImageTag(t.Context(), client.ImageTagOptions{Source: source, Target: name})
	require.NoError(t, err)
	header, err := authconfig.Encode(registrytypes.AuthConfig{Username: registryUser, Password: registryPassword})
	require.NoError(t, err)
	stream, err := engine.ImagePush(t.Context(), name, client.ImagePushOptions{RegistryAuth: header})
	require.NoError(t, err)
	require.NoError(t, stream.Wait(t.Context()))
	removeImage(t, engine, name)
	removeImage(t, engine, source) // which has the same layer
	return name
}

func TestPull_FromAPrivateRegistry(t *testing.T) {
	engine := requireEngine(t)
	address := newRegistry(t)
	image := push(t, engine, address)
	helper := fmt.Sprintf("#!/bin/sh\nread server\n[ \"$server\" = %q ] || exit 1\nprintf '{\"ServerURL\":\"%%s\",\"Username\":%q,\"Secret\":%q}' \"$server\"\n",
		address, registryUser, registryPassword)
	for name, config := range map[string]string{
		"configuration file": loginConfig(address, registryPassword),
		"credential helper":  fmt.Sprintf(`{"credHelpers":{%q:"layover-test"}}`, address),
		"credentials store":  `{"credsStore":"layover-test"}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := dockerConfig(t, config)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "docker-credential-layover-test"), []byte(helper), 0o700))
			t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
			r := newRuntime(t, engine, Options{})
			var steps []string
			status, err := r.Start(t.Context(), workload("cart-1", image), func(step api.Step, detail string) {
				steps = append(steps, string(step)+" "+detail)
			})
			t.Cleanup(func() { removeImage(t, engine, image) })
			require.NoError(t, err)
			require.Equal(t, "hello", get(t, status, "/"))
			require.Equal(t, "pull "+image, steps[0])
			require.Regexp(t, `^pull 1 of 1 layers, [\d.]+ MB of [\d.]+ MB$`, steps[len(steps)-2])
			require.Equal(t, "start container "+r.name("cart-1"), steps[len(steps)-1])
		})
	}
}

func TestPull_Policies(t *testing.T) {
	engine := requireEngine(t)
	image := newImage(t, engine)
	r := newRuntime(t, engine, Options{})
	for policy, wantErr := range map[string]bool{"": false, "missing": false, "never": false, "always": true} {
		t.Run(policy, func(t *testing.T) {
			local := "127.0.0.1:1/" + image // a registry where nothing listens
			_, err := engine.ImageTag(t.Context(), client.ImageTagOptions{Source: image, Target: local})
			require.NoError(t, err)
			t.Cleanup(func() { removeImage(t, engine, local) })
			w := workload("cart-1", local)
			w.Run.Docker.Pull = policy
			_, err = r.Start(t.Context(), w, nil)
			if wantErr {
				require.Contains(t, userError(t, err).Message, "registry 127.0.0.1:1 cannot be reached")
				return
			}
			require.NoError(t, err)
			require.NoError(t, r.Stop(t.Context(), "cart-1", 0))
		})
	}
}

func TestPull_SaysWhyNot(t *testing.T) {
	engine := requireEngine(t)
	address := newRegistry(t)
	image := push(t, engine, address)
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, dead.Close())
	for name, test := range map[string]struct {
		config, image string
		code          api.Code
		message, hint string
	}{
		"no credentials": {
			config: `{}`, image: image, code: api.CodeForbidden,
			message: "wants credentials and there are none", hint: "docker login " + address,
		},
		"wrong password": {
			config: loginConfig(address, "wrong-secret"), image: image, code: api.CodeForbidden,
			message: "the credentials in Docker's configuration are wrong", hint: "docker login " + address,
		},
		"configuration that is no JSON": {
			config: `{"auths":`, image: image, code: api.CodeForbidden,
			message: "cannot be read", hint: "docker login " + address,
		},
		"credentials that are none": {
			config: fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, address, base64.StdEncoding.EncodeToString([]byte("wrong-secret"))), image: image,
			code: api.CodeForbidden, message: "cannot be read", hint: "docker login " + address,
		},
		"helper that is not there": {
			config: `{"credsStore":"layover-absent"}`, image: image, code: api.CodeForbidden,
			message: "cannot be read", hint: "docker login " + address,
		},
		"no such tag": {
			config: loginConfig(address, registryPassword), image: address + "/team/cart:v2", code: api.CodeNotFound,
			message: "image " + address + "/team/cart:v2 does not exist in registry " + address, hint: "check its name and tag",
		},
		"no such repository": {
			config: loginConfig(address, registryPassword), image: address + "/team/absent:v1", code: api.CodeNotFound,
			message: "does not exist in registry " + address, hint: "check its name and tag",
		},
		"registry that does not run": {
			config: `{}`, image: dead.Addr().String() + "/cart:v1", code: api.CodeUnavailable,
			message: "registry " + dead.Addr().String() + " cannot be reached", hint: "check the registry's name",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dockerConfig(t, test.config)
			r := newRuntime(t, engine, Options{})
			_, err := r.Start(t.Context(), workload("cart-1", test.image), nil)
			known := userError(t, err)
			require.Equal(t, test.code, known.Code, known.Message)
			require.Contains(t, known.Message, test.message)
			require.Contains(t, known.Hint, test.hint)
			for cause := error(known); cause != nil; {
				require.NotContains(t, cause.Error(), "wrong-secret")
				wrapped, ok := cause.(interface{ Unwrap() error })
				if !ok {
					break
				}
				cause = wrapped.Unwrap()
			}
			listed, err := r.List(t.Context())
			require.NoError(t, err)
			require.Empty(t, listed)
		})
	}
}

// What the image and its registry are called must not be read as the reason.
func TestFailPull_NamesAreNoReasons(t *testing.T) {
	for name, test := range map[string]struct {
		image, said string
		code        api.Code
	}{
		"port":                {"127.0.0.1:40101/team/cart:v2", "manifest for 127.0.0.1:40101/team/cart:v2 not found: manifest unknown: Unknown manifest", api.CodeNotFound},
		"port of a silent":    {"127.0.0.1:40101/cart:v1", `Get "http://127.0.0.1:40101/v2/": dial tcp 127.0.0.1:40101: connect: connection refused`, api.CodeUnavailable},
		"tag":                 {"registry.test/cart:401", "manifest for registry.test/cart:401 not found: manifest unknown", api.CodeNotFound},
		"repository":          {"registry.test/denied:v1", "manifest for registry.test/denied:v1 not found: manifest unknown", api.CodeNotFound},
		"repository in a URL": {"registry.test/timeout:v1", `error from registry.test: https://registry.test/v2/timeout/manifests/401: manifest unknown`, api.CodeNotFound},
		"status":              {"registry.test/cart:v1", `Head "https://registry.test/v2/cart/manifests/v1": unexpected status: 401 Unauthorized`, api.CodeForbidden},
		"refusal":             {"registry.test/cart:v1", "pull access denied for registry.test/cart, repository does not exist or may require 'docker login': denied: requested access to the resource is denied", api.CodeForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			image, err := reference.ParseNormalizedNamed(test.image)
			require.NoError(t, err)
			r, err := New(Options{Environment: "dev", Host: "unix:///nonexistent"})
			require.NoError(t, err)
			err = r.failPull(t.Context(), image, login{registry: reference.Domain(image)}, errors.New(test.said))
			known := userError(t, err)
			require.Equal(t, test.code, known.Code, known.Message)
		})
	}
}

func TestWords_LeavesSecretsOut(t *testing.T) {
	err := fmt.Errorf(`Error response from daemon: Get "https://bob:pw@blobs.example.com/x?X-Signature=abc": dial tcp: refused`)
	require.Equal(t, `Get "https://blobs.example.com/x": dial tcp: refused`, words(err))
}

// A container calls a name of the environment and reaches the proxy, which is this test.
func TestExtraHosts_LeadToTheProxy(t *testing.T) {
	engine := requireEngine(t)
	image := newImage(t, engine)
	probe := newRuntime(t, engine, Options{})
	gateway, err := probe.Gateway(t.Context())
	require.NoError(t, err)
	listener, err := net.Listen("tcp", net.JoinHostPort(gateway.String(), "0"))
	if err != nil {
		t.Skipf("left out: calls from containers to this machine; the address of the Docker network, %s, is not on it: %v", gateway, err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.WriteString(w, "proxy asked for "+req.Host)
	}))
	require.NoError(t, server.Listener.Close())
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	for name, address := range map[string]string{"gateway": gateway.String(), "host-gateway": ""} {
		t.Run(name, func(t *testing.T) {
			r := newRuntime(t, engine, Options{ProxyAddress: address})
			w := workload("cart-1", image)
			w.Hosts = []string{"pricing.test", "cart.localhost", "pricing.test", "localhost", "*.shop.test"}
			status, err := r.Start(t.Context(), w, nil)
			require.NoError(t, err)
			for _, host := range []string{"pricing.test", "cart.localhost"} {
				target := host + ":" + port
				require.Equal(t, "proxy asked for "+target, get(t, status, "/call?url="+url.QueryEscape("http://"+target+"/")))
			}
		})
	}
}
