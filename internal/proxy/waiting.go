package proxy

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/layover-dev/layover/internal/route"
)

// WaitPath is where the page that waits for a version asks how far it is. The proxy answers
// there itself, for every service.
const WaitPath = "/.layover/wait"

const (
	// pageAfter is how long a person waits for the version itself, before there is a page.
	pageAfter = 400 * time.Millisecond
	// tellAfter is how long the page waits at most to be told what has changed.
	tellAfter = 10 * time.Second
)

//go:embed waiting.html
var waitingText string

//go:embed waiting.js
var waitingScript string

// waitingPage is the page that a browser shows while a version starts.
type waitingPage struct {
	page   *template.Template
	policy string
}

func newWaitingPage() *waitingPage {
	hash := sha256.Sum256([]byte(waitingScript))
	return &waitingPage{
		page: template.Must(template.New("waiting").Parse(waitingText)),
		policy: "default-src 'none'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; script-src 'sha256-" +
			base64.StdEncoding.EncodeToString(hash[:]) + "'",
	}
}

// isNavigation says whether the request is a browser's for a page to show, which can wait as
// a page. It is asked of requests that wait only.
func (x *exchange) isNavigation() bool {
	if x.rq.method != http.MethodGet || !prefersHTML(x.rq.accept) {
		return false
	}
	mode := x.client.values("Sec-Fetch-Mode")
	return len(mode) == 0 || mode[0] == "navigate"
}

// progress is how far a version is, as the page is told.
type progress struct {
	Version string      `json:"version"`
	State   route.State `json:"state"`
	Detail  string      `json:"detail"`
	Seen    string      `json:"seen"` // to be told what comes after
}

func progressOf(v *route.VersionEntry, notAsked error) progress {
	p := progress{Version: v.ID, State: v.State}
	switch {
	case v.State == route.Ready:
		p.Detail = "It is up."
	case notAsked != nil:
		p.Detail = "It could not be started, and that is tried again: " + notAsked.Error()
	case v.Reason != "":
		p.Detail = sentence(v.Reason)
	case v.State == route.Asleep:
		p.Detail = "It is asleep, and is being woken up."
	case v.State == route.Starting:
		p.Detail = "It starts."
	}
	hash := fnv.New64a()
	_, _ = fmt.Fprintf(hash, "%s\n%s", p.State, p.Detail) // never fails
	p.Seen = fmt.Sprintf("%x", hash.Sum64())
	return p
}

// waitingProblem is the page that waits, as an answer.
func (x *exchange) waitingProblem() *problem {
	now := progressOf(x.decision.Version, nil)
	var page bytes.Buffer
	_ = x.proxy.waiting.page.Execute(&page, map[string]any{ // writing to memory, with a template that the tests run
		"Version": now.Version, "Detail": now.Detail, "Seen": now.Seen, "Path": WaitPath,
		"Script": template.JS(waitingScript), //nolint:gosec // a constant
	})
	return &problem{
		status: http.StatusServiceUnavailable, code: CodeWaiting, retryAfter: retrySoon,
		content: &content{kind: "text/html; charset=utf-8", policy: x.proxy.waiting.policy, body: page.Bytes()},
	}
}

// tellState answers the page that waits: as soon as there is something that it has not seen.
// While it is waited for, a version that sleeps is woken up.
func (x *exchange) tellState() *problem {
	seen := seenIn(x.rq.target)
	var hold hold
	defer hold.release(x)
	for {
		now := x.proxy.current.Load()
		x.decide(now.table)
		if problem := x.refusal(); problem != nil {
			return problem // which the page shows, when it asks for what it waits for once more
		}
		told := progressOf(x.decision.Version, hold.notAsked())
		if told.State == route.Ready || told.Seen != seen {
			return told.problem()
		}
		if hold.timer == nil {
			if problem := hold.begin(x, tellAfter); problem != nil {
				return problem
			}
		}
		hold.version = x.decision.Version.ID
		hold.wake(x)
		select {
		case <-now.replaced:
		case <-hold.timer.C:
			return progressOf(x.decision.Version, hold.notAsked()).problem()
		case <-x.client.gone():
			return x.unwanted()
		case <-x.proxy.stopping:
			return stopping()
		}
	}
}

func (p progress) problem() *problem {
	body, _ := json.Marshal(p) // strings are always encoded
	return &problem{
		status: http.StatusOK, code: CodeWaiting,
		content: &content{kind: "application/json", body: append(body, '\n')},
	}
}

// seenIn returns what the page has seen, of the target of its request.
func seenIn(target string) string {
	_, query, _ := strings.Cut(target, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return ""
	}
	return values.Get("seen")
}
