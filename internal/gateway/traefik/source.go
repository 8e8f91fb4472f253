package traefik

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/layover-dev/layover/internal/route"
)

// Source keeps the newest configuration, for all that ask for it: it is made anew only where something has changed.
// It may be used by any number of goroutines.
type Source struct {
	Askers   Askers // who read it from the server
	settings func() Settings

	mu       sync.Mutex
	at       route.Position
	made     Settings
	snapshot *Snapshot // nil where none was asked for yet
}

// Snapshot is one configuration, which must not be changed.
type Snapshot struct {
	Config *Config
	JSON   []byte
	ETag   string    // of JSON, with its quotes
	Since  time.Time // when it was found to be another one than before
}

// NewSource makes a source of configurations with the settings of the moment.
func NewSource(settings func() Settings) *Source { return &Source{settings: settings} }

// Settings are those of the moment.
func (s *Source) Settings() Settings { return s.settings() }

// Of returns the configuration of a table. The error may be [ErrNoProxy].
func (s *Source) Of(t *route.Table) (*Snapshot, error) {
	settings := s.settings()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.snapshot != nil && s.at == t.Position() && s.made.equal(settings) {
		return s.snapshot, nil
	}
	config, err := Build(t, settings)
	if err != nil {
		return nil, err
	}
	data, err := config.JSON()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	next := &Snapshot{Config: config, JSON: data, ETag: `"` + hex.EncodeToString(sum[:16]) + `"`, Since: time.Now()}
	if s.snapshot != nil && s.snapshot.ETag == next.ETag {
		next.Since = s.snapshot.Since
	}
	s.at, s.made, s.snapshot = t.Position(), settings, next
	return s.snapshot, nil
}

func (s Settings) equal(o Settings) bool {
	return s.Mode == o.Mode && s.Priority == o.Priority && s.TLS == o.TLS && s.CertResolver == o.CertResolver &&
		slices.Equal(s.Proxies, o.Proxies) && slices.Equal(s.EntryPoints, o.EntryPoints) && maps.Equal(s.Leased, o.Leased)
}
