// Package ecstest is a fake of the parts of AWS that the runtime for Amazon ECS talks to: ECS itself,
// the queue in SQS that EventBridge fills with the changes of its tasks, CloudWatch Logs, STS, and
// the one question to EC2 for the address of a container instance.
//
// Its tasks run: as processes, as Docker containers, or as HTTP servers in this process, each with an
// address of its own. It allows a caller what the IAM policy of that caller allows and nothing
// else, keeps to the limits of the real API, and can throttle, fail, delay, and lose, repeat and reorder
// events. What it takes and gives is held to the contracts of AWS, see contract.go.
package ecstest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Options say what a [Cloud] has.
type Options struct {
	Runner  Runner       // how tasks run
	Account string       // of which everything is; "" means 111122223333
	Region  string       // "" means eu-central-1
	Seed    uint64       // of what [Faults] draw
	Logger  *slog.Logger // nil is silence
}

// Cloud is the fake: one account in one region. Its zero value is of no use, see [New].
type Cloud struct {
	account  string
	region   string
	log      *slog.Logger
	server   *http.Server
	listener net.Listener
	contract *contract
	iam      *iam
	faults   faultState
	calls    counters
	events   eventBus

	ecs  *ecsService
	sqs  *sqsService
	logs *logsService
	sts  *stsService
	ec2  *ec2Service

	ending context.CancelFunc
	served sync.WaitGroup
}

// request is one call of the API.
type request struct {
	ctx     context.Context //nolint:containedctx // a request is as long as the call
	service string          // "ecs", "sqs", "logs", "sts", "ec2": the prefix of its actions in IAM
	action  string          // "RunTask"
	body    []byte          // JSON; of the query protocol nil
	form    url.Values      // of the query protocol
	caller  *principal
}

// apiError is an error as the API gives it.
type apiError struct {
	status  int    // of HTTP; 0 means 400
	code    string // "ClusterNotFoundException"
	message string
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

func apiErrorf(code, format string, args ...any) *apiError {
	return &apiError{code: code, message: fmt.Sprintf(format, args...)}
}

// New starts a cloud, which listens on loopback.
func New(opts Options) (*Cloud, error) {
	if opts.Account == "" {
		opts.Account = "111122223333"
	}
	if opts.Region == "" {
		opts.Region = "eu-central-1"
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Cloud{account: opts.Account, region: opts.Region, log: opts.Logger, ending: cancel}
	c.contract = newContract()
	c.faults.seed(opts.Seed)
	c.iam = newIAM(c)
	c.sqs = newSQS(c)
	c.logs = newLogs(c)
	c.sts = newSTS(c)
	c.ec2 = newEC2(c)
	c.ecs = newECS(ctx, c, opts.Runner)
	var err error
	if c.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
		cancel()
		return nil, fmt.Errorf("listen: %w", err)
	}
	c.server = &http.Server{Handler: c, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	c.served.Go(func() { _ = c.server.Serve(c.listener) })
	return c, nil
}

// URL is the endpoint of every service: the value of AWS_ENDPOINT_URL.
func (c *Cloud) URL() string { return "http://" + c.listener.Addr().String() }

// Close ends all tasks, and the cloud.
func (c *Cloud) Close() error {
	c.ending()
	err := errors.Join(c.server.Close(), c.ecs.close())
	c.served.Wait()
	return err
}

// Calls returns how often each action was asked for since the start, "ecs:RunTask", throttled ones included.
func (c *Cloud) Calls() map[string]int { return c.calls.all() }

// Throttled returns how many of the calls were refused for being too many, whether by the limits of
// the API or by [Faults].
func (c *Cloud) Throttled() map[string]int { return c.calls.throttled() }

// maxBody bounds what a call may send.
const maxBody = 4 << 20

// credential finds the access key and the service in an Authorization header of Signature Version 4.
var credential = regexp.MustCompile(`Credential=([^/]+)/\d{8}/([^/]+)/([^/]+)/aws4_request`)

// targets are the prefixes of X-Amz-Target of the JSON protocols.
func targets() map[string]string {
	return map[string]string{"AmazonEC2ContainerServiceV20141113": "ecs", "AmazonSQS": "sqs", "Logs_20140328": "logs"}
}

// ServeHTTP answers one call.
func (c *Cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	call := &request{ctx: r.Context(), body: body}
	if prefix, action, ok := strings.Cut(r.Header.Get("X-Amz-Target"), "."); ok {
		call.service, call.action = targets()[prefix], action
	} else if call.form, err = url.ParseQuery(string(body)); err == nil {
		call.action, call.body = call.form.Get("Action"), nil
		if found := credential.FindStringSubmatch(r.Header.Get("Authorization")); found != nil {
			call.service = found[3]
		}
	}
	if c.faults.cut(call) {
		panic(http.ErrAbortHandler)
	}
	out, failed := c.answer(call, r)
	if c.faults.lose(call) {
		panic(http.ErrAbortHandler)
	}
	c.write(w, call, out, failed)
}

// answer gives a call to the service it is for, behind everything that can refuse it.
func (c *Cloud) answer(call *request, r *http.Request) (any, *apiError) {
	serve, ok := map[string]func(*request) (any, *apiError){
		"ecs": c.ecs.call, "sqs": c.sqs.call, "logs": c.logs.call, "sts": c.sts.call, "ec2": c.ec2.call,
	}[call.service]
	if !ok {
		return nil, apiErrorf("UnknownOperationException", "no service for %q", r.Header.Get("X-Amz-Target"))
	}
	name := call.service + ":" + call.action
	c.calls.count(name)
	if err := c.identify(call, r); err != nil {
		return nil, err
	}
	if err := c.contract.request(call); err != nil {
		return nil, err
	}
	if err := c.faults.refuse(call); err != nil {
		if err.code == throttling {
			c.calls.countThrottled(name)
		}
		return nil, err
	}
	out, err := serve(call)
	if err != nil && err.code == throttling {
		c.calls.countThrottled(name)
	}
	return out, err
}

// throttling is the code of the error that tells a caller to ask less often.
const throttling = "ThrottlingException"

// identify finds who calls.
func (c *Cloud) identify(call *request, r *http.Request) *apiError {
	found := credential.FindStringSubmatch(r.Header.Get("Authorization"))
	if found == nil {
		return &apiError{status: http.StatusForbidden, code: "MissingAuthenticationTokenException", message: "Missing Authentication Token"}
	}
	var err *apiError
	call.caller, err = c.iam.caller(found[1], r.Header.Get("X-Amz-Security-Token"))
	return err
}

// write writes an answer in the protocol of its service.
func (c *Cloud) write(w http.ResponseWriter, call *request, out any, failed *apiError) {
	if call.form != nil {
		writeQuery(w, call, out, failed)
		return
	}
	version := "1.1"
	if call.service == "sqs" {
		version = "1.0"
	}
	w.Header().Set("Content-Type", "application/x-amz-json-"+version)
	w.Header().Set("X-Amzn-Requestid", newID())
	status, answer := http.StatusOK, out
	if failed != nil {
		status = failed.status
		if status == 0 {
			status = http.StatusBadRequest
		}
		if call.service == "sqs" { // whose errors have their names from before it had JSON as well
			w.Header().Set("X-Amzn-Query-Error", queryError(call.service, failed).code+";Sender")
		}
		answer = map[string]string{"__type": failed.code, "message": failed.message}
	} else if answer == nil {
		answer = struct{}{}
	}
	text, err := json.Marshal(answer)
	if err == nil && failed == nil {
		err = c.contract.response(call, text)
	}
	if err != nil { // the fake itself is wrong
		c.log.Error("bad answer", "service", call.service, "action", call.action, "err", err)
		status, text = http.StatusInternalServerError, []byte(`{"__type":"ServerException","message":"ecstest: answer breaks the contract of AWS"}`)
		c.contract.broken(err)
	}
	w.WriteHeader(status)
	_, _ = w.Write(text)
}
