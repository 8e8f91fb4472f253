package sockets_test

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/runtime/sockets"
)

func TestProcesses(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close() //nolint:errcheck // a test's
	want := netip.MustParseAddrPort(listener.Addr().String())
	found, err := sockets.Processes([]int{os.Getpid()})
	require.NoError(t, err)
	require.Contains(t, found, want)
	found, err = sockets.Namespace(os.Getpid())
	require.NoError(t, err)
	require.Contains(t, found, want)
	_, err = sockets.Processes(nil)
	require.Error(t, err)
}
