package proxy

import (
	"sync"
	"time"
)

// What a version's requests may be tried again: where many fail at once, trying each again
// would be the second half of the trouble.
const (
	retryShare  = 5  // one retry for so many answers
	retryFloor  = 10 // retries a second whatever the answers are
	retryBurst  = 100
	retryAtOnce = retryFloor // what a version begins with
)

// budget bounds the retries of one version. It costs nothing until one is wanted: the
// answers since the last time are what it goes by. The zero value is ready.
type budget struct {
	mu      sync.Mutex
	last    time.Time // of the last wish; zero before the first
	answers uint64    // that the version had given by then
	left    float64
}

// take says whether one retry is within the budget of a version that has
// given so many answers, and takes it.
func (b *budget) take(answers uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.last.IsZero() {
		b.last, b.left = now, retryAtOnce
	}
	b.left += float64(answers-b.answers)/retryShare + now.Sub(b.last).Seconds()*retryFloor
	b.left = min(b.left, retryBurst)
	b.last, b.answers = now, answers
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}
