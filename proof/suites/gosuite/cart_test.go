//go:build suite

// Package gosuite is a suite as a team has it, which knows nothing of versions.
package gosuite

import (
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/layover-dev/layover/examples/shop/inventorypb"
)

func TestHTTP(t *testing.T) {
	for _, address := range []string{os.Getenv("CART_URL"), strings.Replace(os.Getenv("CART_URL"), "http://", "https://", 1)} {
		res, err := http.Get(address + "/items/1")
		require.NoError(t, err)
		text, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, 200, res.StatusCode)
		t.Logf("answered: %s", text)
	}
}

func TestGRPC(t *testing.T) {
	conn, err := grpc.NewClient(os.Getenv("INVENTORY"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	answer, err := inventorypb.NewInventoryClient(conn).GetStock(t.Context(), &inventorypb.GetStockRequest{})
	require.NoError(t, err)
	t.Logf("answered: %v", answer)
}
