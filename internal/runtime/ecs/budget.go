package ecs

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// budget bounds how many calls a second are made to the API of one account. What is allowed
// there is shared with everybody else of the account, and nobody knows what they use: where AWS says that
// there are too many, the rate is halved, and grows again while it says so no more.
type budget struct {
	mu      sync.Mutex
	limiter *rate.Limiter
	most    rate.Limit
	calls   int // since the rate last grew

	owed    float64   // calls that were made in any case, and are not made up for
	counted time.Time // when owed was that
}

// The rate never falls below a quarter of the whole, and grows by a twentieth of it each growAfter calls. A
// burst of calls may come at once, so that a deployment waits for none.
const (
	slowest   = 4
	growAfter = 4
	burst     = 8
	mostOwed  = 2 * burst // calls that questions wait for
	ofChanges = 2. / 3    // of the rate that changes may take: who asks nothing any more does not learn what to change
)

func newBudget(perSecond float64) *budget {
	most := rate.Limit(perSecond)
	return &budget{limiter: rate.NewLimiter(most, burst), most: most}
}

// wait waits until the next call may be made.
func (b *budget) wait(ctx context.Context) error { return b.limiter.Wait(ctx) }

// short says whether there were too many calls lately, or some wait: what can wait waits.
func (b *budget) short() bool { return b.limiter.Limit() < b.most || b.limiter.Tokens() < 0 }

// take counts a call that is made in any case. Those of a large deployment let questions wait for some seconds, and
// not until all of them are made up for.
func (b *budget) take() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.owed = max(0, b.owed-now.Sub(b.counted).Seconds()*float64(b.limiter.Limit())*ofChanges)
	b.counted = now
	if b.owed < mostOwed {
		b.owed++
		b.limiter.Reserve()
	}
}

// tooMany slows down.
func (b *budget) tooMany() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = 0
	b.limiter.SetLimit(max(b.most/slowest, b.limiter.Limit()/2))
}

// fine notes a call that was answered.
func (b *budget) fine() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.calls++; b.calls >= growAfter && b.limiter.Limit() < b.most {
		b.calls = 0
		b.limiter.SetLimit(min(b.most, b.limiter.Limit()+b.most/20))
	}
}
