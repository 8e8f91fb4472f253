package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/internal/control"
)

func versionTests() map[string]func(*testing.T, *subject) {
	return map[string]func(*testing.T, *subject){
		"an empty list is not nil": func(t *testing.T, s *subject) {
			all, err := s.Versions(t.Context())
			require.NoError(t, err)
			require.Equal(t, []control.VersionRecord{}, all)
		},
		"every field is kept": func(t *testing.T, s *subject) {
			want := full[control.VersionRecord](t)
			require.NoError(t, s.put(t.Context(), want))
			s.bothWays(t, func(t *testing.T) { same(t, &want, s.get(t, want.Key)) })
		},
		"a record with nothing in it is kept": func(t *testing.T, s *subject) {
			want := control.VersionRecord{Key: cartMain()}
			require.NoError(t, s.put(t.Context(), want))
			s.bothWays(t, func(t *testing.T) { same(t, &want, s.get(t, want.Key)) })
		},
		"a megabyte is kept": func(t *testing.T, s *subject) {
			want := full[control.VersionRecord](t)
			want.Generations[1].Deployment.Env["BIG"] = megabyte()
			require.NoError(t, s.put(t.Context(), want))
			s.bothWays(t, func(t *testing.T) { same(t, &want, s.get(t, want.Key)) })
		},
		"generations keep their order": func(t *testing.T, s *subject) {
			want := control.VersionRecord{Key: cartMain()}
			for _, n := range []int64{3, 1, 2} {
				want.Generations = append(want.Generations, control.Generation{Number: n})
			}
			require.NoError(t, s.put(t.Context(), want))
			s.bothWays(t, func(t *testing.T) { same(t, &want, s.get(t, want.Key)) })
		},
		"a time without a value, and one with nanoseconds": func(t *testing.T, s *subject) {
			now := time.Now()
			require.NoError(t, s.put(t.Context(), control.VersionRecord{Key: cartMain(), Generations: []control.Generation{{At: now}}}))
			got := s.get(t, cartMain())
			require.True(t, got.CreatedAt.IsZero())
			require.True(t, got.Generations[0].At.Equal(now), "%s, not %s", got.Generations[0].At, now)
		},
		"ordered by service, then name": func(t *testing.T, s *subject) {
			var want []control.Key
			for _, service := range names() {
				for _, version := range names() {
					want = append(want, control.Key{Service: service, Version: version})
				}
			}
			for _, i := range rand.Perm(len(want)) { //nolint:gosec // any order will do
				require.NoError(t, s.put(t.Context(), control.VersionRecord{Key: want[i]}))
			}
			s.bothWays(t, func(t *testing.T) {
				all, err := s.Versions(t.Context())
				require.NoError(t, err)
				var got []control.Key
				for _, r := range all {
					got = append(got, r.Key)
				}
				require.Equal(t, want, got)
			})
		},
		"a list is a copy": func(t *testing.T, s *subject) {
			want := full[control.VersionRecord](t)
			require.NoError(t, s.put(t.Context(), want))
			first := s.get(t, want.Key)
			first.Generations[0].LogTail[0] = "changed"
			clear(first.Generations[1].Deployment.Env)
			same(t, &want, s.get(t, want.Key))
		},
	}
}

func updateTests() map[string]func(*testing.T, *subject) {
	return map[string]func(*testing.T, *subject){
		"edit gets nil where there is no record": func(t *testing.T, s *subject) {
			require.NoError(t, s.put(t.Context(), control.VersionRecord{Key: control.Key{Service: "cart", Version: "other"}}))
			require.NoError(t, s.UpdateVersion(t.Context(), cartMain(), func(r *control.VersionRecord) (*control.VersionRecord, error) {
				require.Nil(t, r)
				return nil, nil
			}))
			require.Nil(t, s.get(t, cartMain()))
		},
		"edit gets the record": func(t *testing.T, s *subject) {
			want := full[control.VersionRecord](t)
			require.NoError(t, s.put(t.Context(), want))
			s.bothWays(t, func(t *testing.T) {
				require.NoError(t, s.UpdateVersion(t.Context(), want.Key, func(r *control.VersionRecord) (*control.VersionRecord, error) {
					same(t, &want, r)
					return r, nil
				}))
				same(t, &want, s.get(t, want.Key))
			})
		},
		"edit may change its record, or return another": func(t *testing.T, s *subject) {
			require.NoError(t, s.put(t.Context(), full[control.VersionRecord](t)))
			key := full[control.VersionRecord](t).Key
			require.NoError(t, s.UpdateVersion(t.Context(), key, func(r *control.VersionRecord) (*control.VersionRecord, error) {
				r.Owner = "ada"
				return r, nil
			}))
			want := full[control.VersionRecord](t)
			want.Owner = "ada"
			same(t, &want, s.get(t, key))
			other := control.VersionRecord{Key: key, Owner: "grace"}
			require.NoError(t, s.put(t.Context(), other))
			s.bothWays(t, func(t *testing.T) { same(t, &other, s.get(t, key)) })
		},
		"nil from edit deletes the record with its generations": func(t *testing.T, s *subject) {
			record := full[control.VersionRecord](t)
			require.NoError(t, s.put(t.Context(), record))
			neighbour := control.VersionRecord{Key: control.Key{Service: record.Service, Version: "neighbour"}}
			require.NoError(t, s.put(t.Context(), neighbour))
			require.NoError(t, s.UpdateVersion(t.Context(), record.Key, func(*control.VersionRecord) (*control.VersionRecord, error) {
				return nil, nil
			}))
			s.bothWays(t, func(t *testing.T) {
				require.Nil(t, s.get(t, record.Key))
				require.NotNil(t, s.get(t, neighbour.Key))
			})
			require.NoError(t, s.put(t.Context(), control.VersionRecord{Key: record.Key}))
			require.Empty(t, s.get(t, record.Key).Generations)
		},
		"an error of edit comes back, and nothing is written":        editFails,
		"a panic of edit leaves nothing behind":                      editPanics,
		"a record of another key is refused":                         editRenames,
		"a value that could not be read back is refused":             editUnreadable,
		"no update of one key is lost":                               noLostUpdate,
		"updates of many keys at once, with readers":                 manyKeys,
		"a reader sees a record whole, before an update or after it": noTornRead,
	}
}

func editFails(t *testing.T, s *subject) {
	want := full[control.VersionRecord](t)
	require.NoError(t, s.put(t.Context(), want))
	refused := errors.New("refused")
	for _, key := range []control.Key{want.Key, {Service: "none", Version: "none"}} {
		err := s.UpdateVersion(t.Context(), key, func(r *control.VersionRecord) (*control.VersionRecord, error) {
			if r != nil {
				r.Generations = nil
			}
			return &control.VersionRecord{Key: key}, refused
		})
		require.ErrorIs(t, err, refused)
		err = s.UpdateVersion(t.Context(), key, func(*control.VersionRecord) (*control.VersionRecord, error) {
			return nil, refused
		})
		require.ErrorIs(t, err, refused)
	}
	s.bothWays(t, func(t *testing.T) {
		all, err := s.Versions(t.Context())
		require.NoError(t, err)
		same(t, []control.VersionRecord{want}, all)
	})
}

func editPanics(t *testing.T, s *subject) {
	require.PanicsWithValue(t, "defect", func() {
		_ = s.UpdateVersion(t.Context(), cartMain(), func(*control.VersionRecord) (*control.VersionRecord, error) {
			panic("defect")
		})
	})
	require.Nil(t, s.get(t, cartMain()))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a lock left behind would hold this for ever
	defer cancel()
	require.NoError(t, s.put(ctx, control.VersionRecord{Key: cartMain()}))
}

func editRenames(t *testing.T, s *subject) {
	for _, key := range []control.Key{{}, {Service: "cart"}, {Service: "cart", Version: "other"}} {
		require.Error(t, s.UpdateVersion(t.Context(), cartMain(), func(*control.VersionRecord) (*control.VersionRecord, error) {
			return &control.VersionRecord{Key: key}, nil
		}))
	}
	all, err := s.Versions(t.Context())
	require.NoError(t, err)
	require.Empty(t, all)
}

func editUnreadable(t *testing.T, s *subject) {
	want := control.VersionRecord{Key: cartMain(), Owner: "ada"}
	require.NoError(t, s.put(t.Context(), want))
	bad := control.VersionRecord{Key: cartMain()}
	bad.Generations = make([]control.Generation, 1)
	bad.Generations[0].Deployment.Timeout = -1 // no text form of a duration is negative
	require.Error(t, s.put(t.Context(), bad))
	bad.Generations[0] = control.Generation{At: time.Date(12345, 1, 1, 0, 0, 0, 0, time.UTC)} // nor has a year 5 digits
	require.Error(t, s.put(t.Context(), bad))
	same(t, &want, s.get(t, cartMain()))
}

func noLostUpdate(t *testing.T, s *subject) {
	const writers, times = 16, 20
	group, ctx := errgroup.WithContext(t.Context())
	for w := range writers {
		group.Go(func() error {
			for i := range times {
				err := s.UpdateVersion(ctx, cartMain(), func(r *control.VersionRecord) (*control.VersionRecord, error) {
					if r == nil {
						r = &control.VersionRecord{Key: cartMain()}
					}
					r.Generations = append(r.Generations, control.Generation{
						Number: int64(len(r.Generations) + 1), Reason: fmt.Sprint(w, " ", i),
					})
					return r, nil
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	seen := map[string]bool{}
	for i, g := range s.get(t, cartMain()).Generations {
		require.EqualValues(t, i+1, g.Number)
		seen[g.Reason] = true
	}
	require.Len(t, seen, writers*times)
}

func manyKeys(t *testing.T, s *subject) {
	const writers, times = 12, 15
	group, ctx := errgroup.WithContext(t.Context())
	for w := range writers {
		key := control.Key{Service: "cart", Version: fmt.Sprintf("pr-%02d", w)}
		group.Go(func() error {
			for i := range times {
				if err := s.put(ctx, control.VersionRecord{Key: key, Owner: fmt.Sprint(i)}); err != nil {
					return err
				}
				all, err := s.Versions(ctx)
				if err != nil {
					return err
				}
				at := slices.IndexFunc(all, func(r control.VersionRecord) bool { return r.Key == key })
				if at < 0 || all[at].Owner != fmt.Sprint(i) {
					return fmt.Errorf("%s: what was written is not what is read", key)
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	all, err := s.Versions(t.Context())
	require.NoError(t, err)
	require.Len(t, all, writers)
}

func noTornRead(t *testing.T, s *subject) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var readers sync.WaitGroup
	torn := make(chan string, 8)
	for range 2 {
		readers.Go(func() {
			for ctx.Err() == nil {
				all, err := s.Versions(ctx)
				if err == nil && len(all) == 1 && all[0].Owner != all[0].Source {
					torn <- all[0].Owner + " and " + all[0].Source
					return
				}
			}
		})
	}
	for i := range 100 {
		text := fmt.Sprint(i)
		require.NoError(t, s.put(t.Context(), control.VersionRecord{Key: cartMain(), Owner: text, Source: text}))
	}
	stop()
	readers.Wait()
	require.Empty(t, torn)
}

func cartMain() control.Key { return control.Key{Service: "cart", Version: "main"} }
