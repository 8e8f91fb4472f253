package server_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
)

const versionURL = "/api/v1/services/cart/versions/v1"

func TestGenerations(t *testing.T) {
	e := newEnv(t)
	key := e.withVersion(t)
	client, err := api.NewClient(e.url)
	require.NoError(t, err)
	defer client.Close()
	_, err = e.Deploy(t.Context(), key, api.Deployment{})
	require.NoError(t, err)

	v, err := client.Rollback(t.Context(), "cart", "v1", "", 1)
	require.NoError(t, err)
	require.Equal(t, int64(3), v.Generation)
	require.Equal(t, 202, e.ask(t, "POST", versionURL+"/rollback", "").StatusCode, "the body may be left out")
	history, err := client.History(t.Context(), "cart", "v1")
	require.NoError(t, err)
	require.Len(t, history, 4)
	require.Equal(t, int64(4), history[0].Number, "newest first")
	_, err = client.Rollback(t.Context(), "cart", "v1", "", 9)
	require.ErrorContains(t, err, "no generation 9")

	v, err = client.Scale(t.Context(), "cart", "v1", "", 3)
	require.NoError(t, err)
	require.Equal(t, 3, v.Replicas)
}

func TestGenerationsRefuseBadInput(t *testing.T) {
	e := newEnv(t)
	e.withVersion(t)
	for _, bad := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/scale", `{"replicas": 0}`, 422},
		{"POST", "/scale", `{"replicas": 101}`, 422},
		{"POST", "/scale", `{}`, 422},
		{"POST", "/rollback", `{"to": -1}`, 422},
		{"PUT", "", `{"replicas": 101}`, 422},
		{"PUT", "", `{"replicas": -1}`, 422},
		{"GET", "x/generations", "", 404},
	} {
		require.Equal(t, bad.status, e.ask(t, bad.method, versionURL+bad.path, bad.body).problem(t).Status, bad.path+bad.body)
	}
}
