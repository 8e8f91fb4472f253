package route

import (
	"slices"
	"strings"
)

// maxCandidates is how many names a hint is looked for among, so that a wrong
// name costs little however much the table holds.
const maxCandidates = 20_000

// Similar returns up to n hosts of services that look like host, the closest
// first, for the message about an unknown one. Of one with a star it is the host that
// begins as host does: what is behind the star is itself no host of the service.
func (t *Table) Similar(host string, n int) []string {
	var buf hostBuffer
	want := string(normalHost(&buf, host))
	if want == "" {
		return nil
	}
	h := newHints(want, n)
	for _, s := range t.services.all() {
		for _, one := range s.Hosts {
			if suffix, star := strings.CutPrefix(one, "*"); star {
				label, _, _ := strings.Cut(want, ".")
				if label == want {
					continue
				}
				one = label + suffix
			}
			if !h.consider(one, one) {
				return h.best()
			}
		}
	}
	return h.best()
}

// DidYouMean returns up to n selectors that look like selector and name something
// that exists, the closest first, for the message about an unknown one. A
// selector that is scoped to a service gets versions of that service, or the same
// version of services that look like it; any other gets versions and named routes.
// In a large environment only some of the names are looked at.
func (t *Table) DidYouMean(selector string, n int) []string {
	text := strings.TrimSuffix(percentDecode(selector), "!")
	if service, version, scoped := strings.Cut(text, "@"); scoped {
		return t.scopedHints(service, version, n)
	}
	h := newHints(text, n)
	if name := NameOf(text); name != text && t.names.find([]byte(name)).count > 0 {
		h.add(name, 0)
	}
	for i := range t.spec.Routes {
		if name := t.spec.Routes[i].Name; !h.consider(name, name) {
			return h.best()
		}
	}
	for known := range t.names.all() {
		if !h.consider(known.name, known.name) {
			return h.best()
		}
	}
	return h.best()
}

func (t *Table) scopedHints(service, version string, n int) []string {
	if s := t.Service(service); s != nil {
		h := newHints(version, n)
		if v := s.Version(NameOf(version)); v != nil {
			h.add(v.ID, 0)
		}
		for v := range s.versions.all() {
			if !h.consider(v.Name, v.ID) {
				break
			}
		}
		return h.best()
	}
	h := newHints(service, n)
	for _, s := range t.services.all() {
		if v := s.Version(version); v != nil && !h.consider(s.Name, v.ID) {
			break
		}
	}
	return h.best()
}

// hints keeps what looks most like a wanted text.
type hints struct {
	want  string
	n     int
	limit int // the most edits that still look alike
	left  int // candidates that may still be looked at
	found []hint
	row   [maxHost + 1]int
}

type hint struct {
	text  string
	edits int
}

func newHints(want string, n int) *hints {
	if len(want) > maxHost {
		want = want[:maxHost]
	}
	return &hints{want: strings.ToLower(want), n: n, limit: min(1+len(want)/4, 3), left: maxCandidates}
}

// consider offers text, to be shown as show. It returns false when enough was
// looked at.
func (h *hints) consider(text, show string) bool {
	h.left--
	if edits := h.distance(text); edits <= h.limit {
		h.add(show, edits)
	}
	return h.left > 0
}

// add keeps text if it is among the n best, and once if it comes again.
func (h *hints) add(text string, edits int) {
	one := hint{text: text, edits: edits}
	at, _ := slices.BinarySearchFunc(h.found, one, compareHints)
	if at >= h.n || slices.ContainsFunc(h.found, func(other hint) bool { return other.text == text }) {
		return
	}
	h.found = slices.Insert(h.found, at, one)
	h.found = h.found[:min(len(h.found), h.n)]
}

func (h *hints) best() []string {
	var out []string
	for _, one := range h.found {
		out = append(out, one.text)
	}
	return out
}

func compareHints(a, b hint) int {
	if a.edits != b.edits {
		return a.edits - b.edits
	}
	return strings.Compare(a.text, b.text)
}

// distance is how many bytes must be inserted, removed or replaced to make text
// the wanted one; more than the limit where it certainly is. What begins with
// the wanted text, or the other way round, counts as near.
func (h *hints) distance(text string) int {
	a, b := h.want, text
	if len(a) >= 3 && strings.HasPrefix(b, a) || len(b) >= 3 && strings.HasPrefix(a, b) {
		return h.limit
	}
	if d := len(a) - len(b); d > h.limit || -d > h.limit || len(b) > maxHost {
		return h.limit + 1
	}
	row := h.row[:len(b)+1]
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal, least := row[0], i+1
		row[0] = i + 1
		for j := range len(b) {
			edits := diagonal
			if a[i] != b[j] {
				edits = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], edits
			least = min(least, edits)
		}
		if least > h.limit {
			return h.limit + 1
		}
	}
	return row[len(b)]
}
