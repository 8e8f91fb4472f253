package receiver

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcgzip "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// nested puts n times what is inside into fields, the outermost first.
func nested(inside []byte, n int, fields ...protowire.Number) []byte {
	for i, field := range slices.Backward(fields) {
		one := protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), inside)
		if i == len(fields)-1 {
			one = bytes.Repeat(one, n)
		}
		inside = one
	}
	return inside
}

// heap returns how much memory make leaves in use: the middle of several times, as other tests leave things that go in between.
func heap(make func() any) (bytes int64) {
	inUse := func() int64 {
		for range 3 { // pools are emptied by the second
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	var grew []int64
	for range 5 {
		before := inUse()
		kept := make()
		grew = append(grew, inUse()-before)
		runtime.KeepAlive(kept)
	}
	slices.Sort(grew)
	return grew[len(grew)/2]
}

// TestSize: what is reckoned with is not less than what decoding takes, and not far above it, whatever a sender makes up.
func TestSize(t *testing.T) {
	r := New(Options{Proxy: &known{}, Sink: &kept{}})
	const n = 5_000
	attribute := append(nested([]byte("key"), 1, 1), nested([]byte("value"), 1, 2, 1)...)
	for name, c := range map[string]struct {
		kind int
		body []byte
	}{
		"resources":                 {0, nested(nil, n, 1)},
		"empty spans":               {0, nested(nil, n, 1, 2, 2)},
		"spans with empty texts":    {0, nested(nested(nil, 1, 5), n, 1, 2, 2)},
		"empty attributes":          {0, nested(nil, n, 1, 2, 2, 9)},
		"attributes":                {0, nested(attribute, n, 1, 2, 2, 9)},
		"empty values":              {0, nested(nil, n, 1, 2, 2, 9, 2, 5, 1)},
		"links and events":          {0, append(nested(nil, n, 1, 2, 2, 11), nested(nil, n, 1, 2, 2, 13)...)},
		"unknown fields":            {0, nested(nil, n, 1, 2, 2, 900)},
		"lines":                     {2, nested(nested([]byte("hello"), 1, 5, 1), n, 1, 2, 2)},
		"points":                    {1, nested(nil, n, 1, 2, 2, 5, 1)},
		"points with counts, small": {1, nested(nested(bytes.Repeat([]byte{1}, 100), 1, 8, 2), n/10, 1, 2, 2, 10, 1)},
		"points with bounds":        {1, nested(nested(make([]byte, 800), 1, 7), n/100, 1, 2, 2, 9, 1)},
		"exemplars":                 {1, nested(nil, n, 1, 2, 2, 7, 1, 5)},
		"entity references":         {1, nested([]byte("k"), n, 1, 1, 3, 3)},
	} {
		t.Run(name, func(t *testing.T) {
			k := &r.kinds[c.kind]
			reckoned, ok := k.shape.of(c.body, 0)
			require.True(t, ok)
			real := heap(func() any {
				m := k.empty()
				require.NoError(t, proto.Unmarshal(c.body, m))
				return m
			})
			require.GreaterOrEqual(t, reckoned, real)
			require.Less(t, reckoned, 5*real+64<<10)
		})
	}
	for name, one := range map[string]string{
		"empty lines": "{}", "attributes": `{"attributes":[{},{}]}`, "values": `{"body":{"arrayValue":{"values":[{},{},{}]}}}`,
		"a line": `{"body":{"stringValue":"hello"},"traceId":"4bf90000000000000000000000000000"}`,
	} {
		t.Run("JSON, "+name, func(t *testing.T) {
			body := []byte(`{"resourceLogs":[{"scopeLogs":[{"logRecords":[` + strings.Repeat(one+",", n) + one + `]}]}]}`)
			real := heap(func() any {
				m := plogotlp.NewExportRequest()
				require.NoError(t, m.UnmarshalJSON(body))
				text, err := m.MarshalProto()
				require.NoError(t, err)
				return []any{m, text}
			})
			require.GreaterOrEqual(t, jsonSize(body), real)
		})
	}
	_, ok := r.kinds[0].shape.of(nested(nil, 1, 1, 2, 2, 9)[:3], 0)
	require.False(t, ok, "it is cut off")
}

func (s *scene) client(t *testing.T) coltrace.TraceServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return coltrace.NewTraceServiceClient(conn)
}

// TestMemory_OneRequest: one that would take more than there is is refused for good, over both protocols, and decoded nowhere.
func TestMemory_OneRequest(t *testing.T) {
	s := newScene(t)
	s.memory = newMemory(MinMemory)
	const spans = 100_000 // of two bytes each, and about three hundred in memory
	body := nested(nil, spans, 1, 2, 2)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	res, text := s.post(t, "traces", protobuf, body)
	runtime.ReadMemStats(&after)
	require.Equal(t, http.StatusRequestEntityTooLarge, res.StatusCode)
	require.Contains(t, string(text), "smaller batches")
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(8<<20))

	res, _ = s.post(t, "traces", "application/json", []byte(`{"resourceSpans":[{"scopeSpans":[{"spans":[{}`+strings.Repeat(",{}", spans)+`]}]}]}`))
	require.Equal(t, http.StatusRequestEntityTooLarge, res.StatusCode)

	m := &coltrace.ExportTraceServiceRequest{}
	require.NoError(t, proto.Unmarshal(body, m))
	for _, options := range [][]grpc.CallOption{nil, {grpc.UseCompressor(grpcgzip.Name)}} {
		_, err := s.client(t).Export(t.Context(), m, options...)
		require.Equal(t, codes.ResourceExhausted, status.Code(err))
		require.Empty(t, status.Convert(err).Details(), "another try is of no use")
	}
	require.Empty(t, s.sink.resources())
	require.EqualValues(t, 4, s.Stats()["traces"].Refused)
	require.Zero(t, s.Memory())
}

// TestMemory_Together: where others take what there is, senders are told to come back, over both protocols.
func TestMemory_Together(t *testing.T) {
	s := newScene(t)
	other := hold{of: s.memory}
	require.Nil(t, other.decode(t.Context(), s.memory.mostDecoding))
	require.Equal(t, s.memory.mostDecoding, s.Memory())
	res, text := s.post(t, "traces", protobuf, nested(nil, 1, 1, 2, 2))
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.Equal(t, "1", res.Header.Get("Retry-After"))
	require.Contains(t, string(text), "too much telemetry")
	_, err := s.client(t).Export(t.Context(), &coltrace.ExportTraceServiceRequest{})
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.Equal(t, time.Second, status.Convert(err).Details()[0].(*errdetails.RetryInfo).GetRetryDelay().AsDuration())
	other.release()
	res, _ = s.post(t, "traces", protobuf, nested(nil, 1, 1, 2, 2))
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Zero(t, s.Memory())
}

// TestMemory_SlowSenders: what they have sent is counted, and they take nothing from the room for decoding.
func TestMemory_SlowSenders(t *testing.T) {
	s := newScene(t)
	s.memory = newMemory(MinMemory)
	var slow []net.Conn
	for _, sent := range []int{3 << 20, 3 << 20, 3 << 19} {
		want := s.Memory() + int64(sent)
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.addr)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		_, err = fmt.Fprintf(conn, "POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: %d\r\n\r\n", maxBody)
		require.NoError(t, err)
		_, err = conn.Write(make([]byte, sent))
		require.NoError(t, err)
		slow = append(slow, conn)
		require.Eventually(t, func() bool { return s.Memory() >= want }, 20*time.Second, time.Millisecond)
	}
	require.LessOrEqual(t, s.Memory(), s.memory.mostReading)
	res, _ := s.post(t, "logs", protobuf, make([]byte, 2<<20))
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	_, err := s.client(t).Export(t.Context(), &coltrace.ExportTraceServiceRequest{ResourceSpans: []*trace.ResourceSpans{{SchemaUrl: strings.Repeat("x", 2<<20)}}})
	require.Equal(t, codes.Unavailable, status.Code(err))
	for _, conn := range slow {
		require.NoError(t, conn.Close())
	}
	require.Eventually(t, func() bool { return s.Memory() == 0 }, 20*time.Second, time.Millisecond, "who leaves holds nothing")
	res, _ = s.post(t, "traces", protobuf, nested(nil, 1, 1, 2, 2))
	require.Equal(t, http.StatusOK, res.StatusCode)
}
