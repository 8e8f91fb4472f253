package otlp

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/protobuf/proto"
)

// kind is what the kinds of telemetry differ in. R is what one resource has of it.
type kind[R proto.Message] struct {
	name    string
	method  string                  // of gRPC
	count   func(R) int             // of spans, points or lines
	request func([]R) proto.Message // that carries them; such requests can be put behind each other
	answer  func() answer           // an empty one
}

// answer is a receiver's. refused says how many it did not take, and why.
type answer struct {
	proto.Message
	refused func() (int64, string)
}

// transport carries a request to the receiver.
type transport interface {
	open() error
	// export returns an error that is permanent where another try is of no use.
	export(ctx context.Context, name, method string, request []byte, answer proto.Message) error
	close() error
}

// pipe is one kind of telemetry on its way to the receiver. What waits is encoded: decoded it may take a hundred times as much.
type pipe[R proto.Message] struct {
	kind[R]
	by   transport
	told *teller

	mu      sync.Mutex
	waiting []batch
	bytes   int           // of what waits, and of what is about to
	news    chan struct{} // has one where something waits

	sent, dropped, refused atomic.Int64
}

// batch is what goes into one request.
type batch struct {
	text  []byte
	items int
}

func newPipe[R proto.Message](by transport, told *teller, k kind[R]) *pipe[R] {
	return &pipe[R]{kind: k, by: by, told: told, news: make(chan struct{}, 1)}
}

func (p *pipe[R]) stats() Stats {
	return Stats{Sent: p.sent.Load(), Dropped: p.dropped.Load(), Refused: p.refused.Load()}
}

// add puts in what is lost where there is no room for it, and counts that.
func (p *pipe[R]) add(all []R) bool {
	if p.offer(all) {
		return true
	}
	for _, r := range all {
		p.dropped.Add(int64(p.count(r)))
	}
	return false
}

// offer puts in all, or nothing where there is no room for it.
func (p *pipe[R]) offer(all []R) bool {
	parts, size := p.split(all)
	if len(parts) == 0 {
		return true
	}
	p.mu.Lock()
	fits := p.bytes+size <= maxWaiting
	if fits {
		p.bytes += size
	}
	p.mu.Unlock()
	if !fits {
		return false
	}
	for _, part := range parts {
		p.put(part)
	}
	select {
	case p.news <- struct{}{}:
	default:
	}
	return true
}

// split parts what is too large for one request, as receivers take no more at once, and returns how many bytes all of it has.
func (p *pipe[R]) split(all []R) (parts [][]R, size int) {
	items := 0
	for _, r := range all {
		items += p.count(r)
	}
	if items == 0 {
		return nil, 0
	}
	size = proto.Size(p.request(all))
	if size <= maxRequest || len(all) == 1 {
		return [][]R{all}, size
	}
	first, n := p.split(all[:len(all)/2])
	second, m := p.split(all[len(all)/2:])
	return append(first, second...), n + m
}

// put encodes what there is room for.
func (p *pipe[R]) put(all []R) {
	request := p.request(all)
	b := batch{}
	for _, r := range all {
		b.items += p.count(r)
	}
	size := proto.Size(request)
	var err error
	b.text, err = proto.Marshal(request)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += len(b.text) - size
	if err != nil { // a text in it is no UTF-8: no receiver would take it
		p.refused.Add(int64(b.items))
		return
	}
	p.waiting = append(p.waiting, b)
}

// take returns what one request carries of what waits; nothing where nothing does.
func (p *pipe[R]) take() (b batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for ; n < len(p.waiting); n++ {
		next := p.waiting[n]
		if n > 0 && (b.items+next.items > maxItems || len(b.text)+len(next.text) > maxRequest) {
			break
		}
		b.text = append(b.text, next.text...)
		b.items += next.items
	}
	clear(p.waiting[:n])
	if p.waiting = p.waiting[n:]; len(p.waiting) == 0 {
		p.waiting = nil // with what it was cut from
	}
	p.bytes -= len(b.text)
	return b
}

func (p *pipe[R]) run(ctx context.Context) error {
	for {
		select {
		case <-p.news:
			p.sendAll(ctx, giveUpAfter)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushFor)
			defer cancel()
			p.sendAll(last, time.Nanosecond) // one try: who ends does not wait for a receiver that is away
			return nil
		}
	}
}

func (p *pipe[R]) sendAll(ctx context.Context, patience time.Duration) {
	for b := p.take(); b.items > 0; b = p.take() {
		if ctx.Err() != nil && patience < giveUpAfter {
			p.dropped.Add(int64(b.items)) // there is no more time
			continue
		}
		p.send(ctx, b, patience)
		if ctx.Err() != nil && patience == giveUpAfter {
			return // what is left is sent at the end
		}
	}
}

// send sends a batch, again and again where that may be of use.
func (p *pipe[R]) send(ctx context.Context, b batch, patience time.Duration) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = time.Second, 30*time.Second
	got, err := backoff.Retry(ctx, func() (answer, error) {
		a := p.answer()
		trying, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(timeout, max(patience, flushFor))) // the end lets a try end
		defer cancel()
		err := p.by.export(trying, p.name, p.method, b.text, a.Message)
		if err != nil {
			p.told.failed(ctx, p.name, err)
		}
		return a, err
	}, backoff.WithBackOff(pause), backoff.WithMaxElapsedTime(patience))
	if err != nil {
		p.refused.Add(int64(b.items))
		return
	}
	refused, why := got.refused()
	refused = min(max(refused, 0), int64(b.items))
	p.sent.Add(int64(b.items) - refused)
	p.refused.Add(refused)
	if refused > 0 {
		p.told.failed(ctx, p.name, errors.New("it refused a part: "+why))
		return
	}
	p.told.worked(ctx)
}

// teller says in the log that telemetry does not arrive, once in a while, and that it does again.
type teller struct {
	log      *slog.Logger
	endpoint string

	mu   sync.Mutex
	last time.Time // when it said so; zero while all is well
}

const tellEvery = time.Minute

func (t *teller) failed(ctx context.Context, name string, err error) {
	if ctx.Err() != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.last.IsZero() && time.Since(t.last) < tellEvery {
		return
	}
	t.last = time.Now()
	t.log.Warn("telemetry does not arrive; see telemetry.otlp in the configuration", "endpoint", t.endpoint, "kind", name, "error", err)
}

func (t *teller) worked(ctx context.Context) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.last.IsZero() && time.Since(t.last) > time.Second { // one kind may work where another does not
		t.last = time.Time{}
		t.log.InfoContext(ctx, "telemetry arrives again", "endpoint", t.endpoint)
	}
}
