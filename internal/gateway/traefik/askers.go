package traefik

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Asker is a Traefik that reads the configuration from the server, as far as that can be seen there.
type Asker struct {
	From   string        // its address, without the port
	Last   time.Time     // when it asked last
	Every  time.Duration // the longest of the last pauses between; 0 where it asked once
	Failed bool          // it got no configuration then
}

const (
	maxAskers   = 100
	askerGaps   = 4 // pauses that Every is taken from: several Traefiks may have one address
	askerLeft   = time.Hour
	askedOnce   = time.Minute      // stands for Every where that is not known
	askerMissed = 3                // pauses without a question until it is late
	askerSlack  = 5 * time.Second  // beside them
	askerRetry  = 90 * time.Second // beside them, where it got no configuration: Traefik waits for up to a minute then
)

// Late says whether it should have asked again by now.
func (a Asker) Late(now time.Time) bool {
	allowed := askerMissed*cmp.Or(a.Every, askedOnce) + askerSlack
	if a.Failed {
		allowed += askerRetry
	}
	return now.Sub(a.Last) > allowed
}

// Askers knows who has asked. Its zero value is ready, and may be used by any number of goroutines.
type Askers struct {
	mu   sync.Mutex
	from map[string]*asker
}

type asker struct {
	Asker
	gaps []time.Duration
}

// Asked notes a question, and whether it was answered with a configuration.
func (k *Askers) Asked(from string, now time.Time, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a := k.from[from]
	if a == nil {
		k.makeRoomLocked()
		a = &asker{Asker: Asker{From: from}}
		k.from[from] = a
	} else {
		a.gaps = append(a.gaps[max(0, len(a.gaps)-askerGaps+1):], now.Sub(a.Last))
		a.Every = slices.Max(a.gaps)
	}
	a.Last, a.Failed = now, !ok
}

func (k *Askers) makeRoomLocked() {
	if k.from == nil {
		k.from = map[string]*asker{}
	}
	if len(k.from) < maxAskers {
		return
	}
	var oldest *asker
	for _, a := range k.from {
		if oldest == nil || a.Last.Before(oldest.Last) {
			oldest = a
		}
	}
	delete(k.from, oldest.From)
}

// All are those who have asked, the latest first. One that has left since is forgotten after an hour, unless nobody else asks.
func (k *Askers) All(now time.Time) (all []Asker) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, a := range k.from {
		all = append(all, a.Asker)
	}
	slices.SortFunc(all, func(a, b Asker) int { return cmp.Or(b.Last.Compare(a.Last), strings.Compare(a.From, b.From)) })
	for i, a := range all {
		if i > 0 && now.Sub(a.Last) > askerLeft {
			return all[:i]
		}
	}
	return all
}
