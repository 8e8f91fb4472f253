package main

import (
	"context"
	"fmt"

	"github.com/layover-dev/layover/bench/harness"
	"github.com/layover-dev/layover/internal/route"
)

const (
	streamBytes  = 2 << 30
	streamMemory = 64 << 20 // of the proxy, at its peak
)

// proveStreams sends big bodies through the proxy, both ways, and takes its peak memory.
func proveStreams(bytes int64) func(context.Context) (result, error) {
	return func(ctx context.Context) (result, error) { return streams(ctx, bytes, harness.Layover{}) }
}

func streams(ctx context.Context, bytes int64, layover harness.Peer) (result, error) {
	if err := harness.Supported(); err != nil {
		return result{}, err
	}
	fmt.Println("  building layover")
	if err := (harness.Layover{}).Install(ctx); err != nil {
		return result{}, err
	}
	backend, err := harness.StartBackend(ctx)
	if err != nil {
		return result{}, err
	}
	defer backend.Stop()
	var peak int64
	for _, one := range []struct {
		name     string
		protocol route.Protocol
		chunked  bool
	}{
		{"HTTP/1.1 with Content-Length", harness.Bulk, false},
		{"HTTP/1.1 chunked", harness.Bulk, true},
		{"h2c", harness.BulkH2C, true},
		{"h2c with content-length", harness.BulkH2C, false},
	} {
		running, err := harness.StartPeer(ctx, layover, harness.NewRoutes(100, one.protocol), backend)
		if err != nil {
			return result{}, err
		}
		memory, err := bothWays(ctx, running, one.name, one.chunked, bytes)
		running.Stop()
		if err != nil {
			return result{}, fmt.Errorf("%s: %w", one.name, err)
		}
		peak = max(peak, memory)
	}
	return result{
		figure: fmt.Sprintf("%d MiB up and down, whole and in order; %.1f MiB of memory at the peak", bytes>>20, mebibytes(peak)),
		bar:    fmt.Sprintf("under %.0f MiB", mebibytes(streamMemory)),
		ok:     peak < streamMemory,
	}, nil
}

// bothWays sends and fetches a body, and returns the proxy's peak memory in bytes.
func bothWays(ctx context.Context, running *harness.Running, name string, chunked bool, bytes int64) (int64, error) {
	for _, upload := range []bool{true, false} {
		got, err := harness.Transfer{
			Address: running.Address, Routes: running.Setup.Routes, Upload: upload, Chunked: chunked, Bytes: bytes,
		}.Run(ctx)
		if err != nil {
			return 0, err
		}
		memory, err := harness.MemoryOf(running.PID())
		if err != nil {
			return 0, err
		}
		direction := "down"
		if upload {
			direction = "up"
		}
		fmt.Printf("  %-28s  %-4s  %5.1f s, %4.0f MiB/s, peak %.1f MiB\n", name, direction, got.Took.Seconds(),
			mebibytes(got.Bytes)/got.Took.Seconds(), mebibytes(memory.Peak))
	}
	memory, err := harness.MemoryOf(running.PID())
	return memory.Peak, err
}

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }
