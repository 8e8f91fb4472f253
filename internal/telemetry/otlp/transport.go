package otlp

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	grpcgzip "google.golang.org/grpc/encoding/gzip"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const userAgent = "layover"

// headersOf returns the headers of a request; an error is worth another try, as the file may be back then.
func headersOf(o *Options) (map[string]string, error) {
	if o.Headers == nil {
		return nil, nil
	}
	return o.Headers()
}

// encryption returns how the receiver is known.
func encryption(o *Options) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile == "" {
		return c, nil
	}
	pem, err := os.ReadFile(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read the authorities to trust: %w", err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate in PEM", o.CAFile)
	}
	return c, nil
}

// byGRPC is OTLP/gRPC.
type byGRPC struct {
	conn    *grpc.ClientConn
	options *Options
	target  string
	secure  credentials.TransportCredentials
}

func newGRPC(at *url.URL, o *Options) (*byGRPC, error) {
	if at.Path != "" {
		return nil, errors.New("the endpoint has a path, which gRPC has no use for: leave it out, or choose the protocol http")
	}
	secure, port := insecure.NewCredentials(), "80"
	if at.Scheme == "https" {
		config, err := encryption(o)
		if err != nil {
			return nil, err
		}
		secure, port = credentials.NewTLS(config), "443"
	}
	target := "dns:///" + at.Hostname() + ":" + cmp.Or(at.Port(), port)
	if strings.Contains(at.Hostname(), ":") {
		target = "dns:///[" + at.Hostname() + "]:" + cmp.Or(at.Port(), port)
	}
	return &byGRPC{options: o, target: target, secure: secure}, nil
}

func (t *byGRPC) open() (err error) {
	t.conn, err = grpc.NewClient(t.target,
		grpc.WithTransportCredentials(t.secure), grpc.WithUserAgent(userAgent), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.UseCompressor(grpcgzip.Name)))
	return err
}

func (t *byGRPC) close() error { return t.conn.Close() }

// export is one call. Which errors are worth another try, the specification says (OTLP, "Failures" of gRPC).
func (t *byGRPC) export(ctx context.Context, _, method string, request []byte, answer proto.Message) error {
	headers, err := headersOf(t.options)
	if err != nil {
		return err
	}
	err = t.conn.Invoke(metadata.NewOutgoingContext(ctx, metadata.New(headers)), method, request, answer, grpc.ForceCodecV2(encoded{}))
	if err == nil {
		return nil
	}
	s := status.Convert(err)
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok && info.GetRetryDelay() != nil {
			return retryAfter(err, info.GetRetryDelay().AsDuration())
		}
	}
	switch s.Code() {
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss:
		return err
	}
	return backoff.Permanent(err)
}

// encoded is the codec of requests that are encoded already.
type encoded struct{}

// Name is that of protobuf, as it is that.
func (encoded) Name() string { return grpcproto.Name }

// Marshal passes on a request.
func (encoded) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil //nolint:forcetypeassert // export hands over nothing else
}

// Unmarshal decodes an answer.
func (encoded) Unmarshal(text mem.BufferSlice, v any) error {
	return proto.Unmarshal(text.Materialize(), v.(proto.Message)) //nolint:forcetypeassert // likewise
}

// byHTTP is OTLP/HTTP with protobuf.
type byHTTP struct {
	client  *http.Client
	base    string
	options *Options
}

func newHTTP(at *url.URL, o *Options) (*byHTTP, error) {
	config, err := encryption(o)
	if err != nil {
		return nil, err
	}
	return &byHTTP{
		client: &http.Client{
			Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 3},
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return http.ErrUseLastResponse // headers have keys in them, and are for nobody else
			},
		},
		base: strings.TrimSuffix(at.String(), "/"), options: o,
	}, nil
}

func (t *byHTTP) open() error { return nil }

func (t *byHTTP) close() error {
	t.client.CloseIdleConnections()
	return nil
}

const maxAnswer = 64 << 10 // bytes

// export is one POST. Which answers are worth another try, the specification says (OTLP, "Failures" of HTTP).
func (t *byHTTP) export(ctx context.Context, name, _ string, request []byte, answer proto.Message) error {
	body, err := compressed(request)
	if err != nil {
		return backoff.Permanent(err)
	}
	rq, err := http.NewRequestWithContext(ctx, http.MethodPost, t.base+"/v1/"+name, bytes.NewReader(body))
	if err != nil {
		return backoff.Permanent(err)
	}
	headers, err := headersOf(t.options)
	if err != nil {
		return err
	}
	for name, value := range headers {
		rq.Header.Set(name, value)
	}
	rq.Header.Set("Content-Type", "application/x-protobuf")
	rq.Header.Set("Content-Encoding", "gzip")
	rq.Header.Set("User-Agent", userAgent)
	rs, err := t.client.Do(rq)
	if err != nil {
		return err
	}
	defer func() { _ = rs.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(rs.Body, maxAnswer))
	switch {
	case err != nil:
		return err
	case rs.StatusCode/100 == 2:
		if err := proto.Unmarshal(text, answer); err != nil {
			proto.Reset(answer) // it was taken; some answer with JSON, or nothing that can be read
		}
		return nil
	}
	err = fmt.Errorf("it answered %s%s", rs.Status, reason(rs, text))
	if !slices.Contains([]int{http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}, rs.StatusCode) {
		return backoff.Permanent(err)
	}
	if seconds, convErr := strconv.Atoi(rs.Header.Get("Retry-After")); convErr == nil && seconds > 0 {
		return retryAfter(err, time.Duration(min(seconds, int(giveUpAfter/time.Second)))*time.Second)
	}
	return err
}

// reason is what an answer says of itself, as far as that can be read.
func reason(rs *http.Response, text []byte) string {
	if strings.HasPrefix(rs.Header.Get("Content-Type"), "application/x-protobuf") {
		var s rpcstatus.Status
		if proto.Unmarshal(text, &s) == nil && s.GetMessage() != "" {
			return ": " + s.GetMessage()
		}
		return ""
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(text[:min(len(text), 200)])), "\n")
	if line == "" {
		return ""
	}
	return ": " + strings.ToValidUTF8(line, "")
}

func compressed(text []byte) ([]byte, error) {
	var out bytes.Buffer
	w, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed) // the level is valid
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	err := w.Close()
	return out.Bytes(), err
}

// retryAfter is an error that says when to try again.
func retryAfter(err error, after time.Duration) error {
	return fmt.Errorf("%w: %w", err, &backoff.RetryAfterError{Duration: after})
}
