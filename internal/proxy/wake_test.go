package proxy

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route"
)

// plane is a control plane that can be asked to wake versions.
type plane struct {
	mu     sync.Mutex
	asked  []string
	wake   func(version string) // what comes of it; nil for nothing
	refuse error
}

func (p *plane) Wake(_ context.Context, version string) error {
	p.mu.Lock()
	p.asked = append(p.asked, version)
	wake, err := p.wake, p.refuse
	p.mu.Unlock()
	if err == nil && wake != nil {
		wake(version)
	}
	return err
}

func (p *plane) times() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.asked)
}

func (p *plane) set(refuse error, wake func(string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse, p.wake = refuse, wake
}

func TestWake_OnceForAllRequests(t *testing.T) {
	control, main, pr1 := &plane{}, ready("main", says(t, "main")), ready("pr-1", says(t, "pr-1"))
	w := newWorld(t, Options{Wake: control.Wake}, service("cart", main, state("pr-1", route.Asleep, "")))
	require.Equal(t, "main", w.get(t, "cart.localhost", "/").text)
	require.Zero(t, control.times(), "only who needs it wakes it")

	const requests = 50
	var held []<-chan answer
	for range requests {
		held = append(held, w.later(t, "cart.localhost", "Baggage", toPR1))
	}
	w.waitHeld(t, requests)
	eventually(t, func() bool { return control.times() == 1 })
	w.set(t, service("cart", main, state("pr-1", route.Starting, "it starts")))
	w.waitHeld(t, requests)
	w.set(t, service("cart", main, pr1))
	for _, one := range held {
		require.Equal(t, "pr-1", (<-one).text)
	}
	w.waitHeld(t, 0)
	require.Equal(t, []string{"cart@pr-1"}, control.asked)

	// It may fall asleep again, and is woken again.
	w.set(t, service("cart", main, state("pr-1", route.Asleep, "")))
	again := w.later(t, "cart.localhost", "Baggage", toPR1)
	eventually(t, func() bool { return control.times() == 2 })
	w.set(t, service("cart", main, pr1))
	require.Equal(t, "pr-1", (<-again).text)
}

func TestWake_IsAskedForUntilItWorks(t *testing.T) {
	control, pr1 := &plane{refuse: errors.New("no server answers")}, ready("pr-1", says(t, "pr-1"))
	w := newWorld(t, Options{Wake: control.Wake}, service("cart", state("pr-1", route.Asleep, "")))
	held := w.later(t, "cart.localhost", "Baggage", toPR1)
	eventually(t, func() bool { return control.times() > 0 })
	control.set(nil, func(string) { w.set(t, service("cart", pr1)) })
	require.Equal(t, "pr-1", (<-held).text)
}

func TestWake_ThatCannotBeAskedFor(t *testing.T) {
	control := &plane{refuse: errors.New("no server answers")}
	w := newWorld(t, Options{Wake: control.Wake})
	w.SetTable(compile(t, route.Spec{Hold: 50 * time.Millisecond, Services: []route.Service{
		service("cart", ready("main", says(t, "main")), state("pr-1", route.Asleep, "")),
	}}))
	a := w.get(t, "cart.localhost", "/", "Baggage", toPR1)
	require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
	p := a.problem(t)
	require.Equal(t, CodeVersionNotReady, p.Code)
	require.Contains(t, p.Detail, "could not be started: no server answers")
}

func TestWake_ThatFails(t *testing.T) {
	control, main := &plane{}, ready("main", says(t, "main"))
	w := newWorld(t, Options{Wake: control.Wake}, service("cart", main, state("pr-1", route.Asleep, "")))
	control.set(nil, func(string) { w.set(t, service("cart", main, state("pr-1", route.Failed, "exited with code 7"))) })
	a := w.get(t, "cart.localhost", "/", "Baggage", toPR1)
	require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
	require.Contains(t, a.problem(t).Detail, "exited with code 7")
}

func TestWake_HoldsWhateverItIs(t *testing.T) {
	for name, fields := range map[string][]string{
		"gRPC":      {"Content-Type", "application/grpc"},
		"SSE":       {"Accept", "text/event-stream"},
		"WebSocket": {"Connection", "Upgrade", "Upgrade", "websocket"},
		"fetch":     {"Accept", "text/html", "Sec-Fetch-Mode", "cors"},
		"post":      {"Accept", "text/html"},
	} {
		t.Run(name, func(t *testing.T) {
			control := &plane{}
			w := newWorld(t, Options{Wake: control.Wake}, service("cart", state("pr-1", route.Asleep, "")))
			method := http.MethodGet
			if name == "gRPC" || name == "post" {
				method = http.MethodPost
			}
			pr1 := ready("pr-1", instance(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, r.Method+" "+r.Header.Get("Upgrade"))
			}))
			control.set(nil, func(string) {
				time.AfterFunc(pageAfter+50*time.Millisecond, func() { w.set(t, service("cart", pr1)) })
			})
			req := w.request(t, method, "cart.localhost", "/", strings.NewReader(""), append(fields, "Baggage", toPR1)...)
			res, err := w.client.Do(req)
			require.NoError(t, err)
			defer func() { _ = res.Body.Close() }()
			body, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.Contains(t, string(body), method)
			require.Equal(t, 1, control.times())
		})
	}
}

// browser does what a browser's navigation does.
func (w *world) browser(t *testing.T, path string, more ...string) answer {
	t.Helper()
	return w.get(t, "pr-1--cart.localhost", path, append([]string{
		"Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "Sec-Fetch-Mode", "navigate",
	}, more...)...)
}

// told is what the page that waits is told.
func (w *world) told(t *testing.T, seen string) (progress, answer) {
	t.Helper()
	a := <-w.toldLater(t, seen)
	return a.progress(t), a
}

// toldLater asks for that on the side.
func (w *world) toldLater(t *testing.T, seen string) <-chan answer {
	t.Helper()
	return w.laterAt(t, "pr-1--cart.localhost", WaitPath+"?seen="+seen)
}

func (a answer) progress(t *testing.T) (p progress) {
	t.Helper()
	if a.StatusCode == http.StatusOK {
		require.NoError(t, json.Unmarshal([]byte(a.text), &p))
	}
	return p
}

func TestWaitingPage(t *testing.T) {
	control, pr1 := &plane{}, ready("pr-1", says(t, "pr-1"))
	w := newWorld(t, Options{Wake: control.Wake}, service("cart", state("pr-1", route.Asleep, "")))
	page := w.browser(t, "/deep?q=1")
	require.Equal(t, http.StatusServiceUnavailable, page.StatusCode)
	require.Equal(t, string(CodeWaiting), page.Header.Get(ErrorHeader))
	require.Equal(t, "no-store", page.Header.Get("Cache-Control"))
	require.Equal(t, "1", page.Header.Get("Retry-After"))
	require.Contains(t, page.text, "cart@pr-1 is on its way")
	require.Contains(t, page.text, "It is asleep, and is being woken up.")
	require.NotContains(t, page.text, "http://", "it needs nothing from elsewhere")
	require.NotContains(t, page.text, "https://")
	require.Equal(t, 1, control.times())

	asleep, _ := w.told(t, "")
	require.Equal(t, route.Asleep, asleep.State)
	require.Contains(t, page.text, `data-seen="`+asleep.Seen+`"`, "the page is told what comes after that")

	next := w.toldLater(t, asleep.Seen)
	w.waitHeld(t, 1)
	w.set(t, service("cart", state("pr-1", route.Starting, "its image is being pulled: layer 3 of 7")))
	starting := (<-next).progress(t)
	require.Equal(t, "Its image is being pulled: layer 3 of 7.", starting.Detail)

	next = w.toldLater(t, starting.Seen)
	w.waitHeld(t, 1)
	w.set(t, service("cart", pr1))
	require.Equal(t, route.Ready, (<-next).progress(t).State)
	require.Equal(t, "pr-1", w.browser(t, "/deep?q=1").text)

	w.set(t, service("cart", state("pr-1", route.Failed, "exited with code 7")))
	_, failed := w.told(t, starting.Seen)
	require.Equal(t, http.StatusServiceUnavailable, failed.StatusCode, "the page reloads, and gets the reason")
	require.Contains(t, w.browser(t, "/deep").text, "exited with code 7")
}

func TestWaitingPage_NotForWhatIsFast(t *testing.T) {
	control, pr1 := &plane{}, ready("pr-1", says(t, "pr-1"))
	w := newWorld(t, Options{Wake: control.Wake}, service("cart", state("pr-1", route.Asleep, "")))
	control.set(nil, func(string) { w.set(t, service("cart", pr1)) })
	require.Equal(t, "pr-1", w.browser(t, "/").text)
}

func TestWaitingPage_TellsWhyNobodyIsAsked(t *testing.T) {
	control := &plane{refuse: errors.New("no server answers this proxy")}
	w := newWorld(t, Options{Wake: control.Wake}, service("cart", state("pr-1", route.Asleep, "")))
	w.browser(t, "/")
	first, _ := w.told(t, "")
	next := w.toldLater(t, first.Seen)
	w.waitHeld(t, 1)
	eventually(t, func() bool { return control.times() > 3 })
	w.set(t, service("cart", state("pr-1", route.Asleep, "")), service("other"))
	require.Contains(t, (<-next).progress(t).Detail, "no server answers this proxy")
}

func TestHold_IsBoundedPerService(t *testing.T) {
	bounded := service("cart", state("main", route.Starting, ""))
	bounded.Held.Requests = 1
	w := newWorld(t, Options{}, bounded, service("other", state("main", route.Starting, "")))
	first := w.later(t, "cart.localhost")
	w.waitHeld(t, 1)
	a := w.get(t, "cart.localhost", "/")
	require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
	p := a.problem(t)
	require.Equal(t, CodeTooManyHeld, p.Code)
	require.Contains(t, p.Detail, "held.requests")
	other := w.later(t, "other.localhost")
	w.waitHeld(t, 2)
	w.set(t, service("cart", ready("main", says(t, "cart"))), service("other", ready("main", says(t, "other"))))
	require.Equal(t, "cart", (<-first).text)
	require.Equal(t, "other", (<-other).text)
	require.Empty(t, w.holds.services, "all that was taken is given back")
}

func TestHold_BytesAreBoundedPerService(t *testing.T) {
	bounded := service("cart", state("main", route.Starting, ""))
	bounded.Held.Bytes = 6 << 10
	w := newWorld(t, Options{}, bounded)
	small := w.later(t, "cart.localhost")
	w.waitHeld(t, 1)
	a := w.get(t, "cart.localhost", "/", "X-Large", strings.Repeat("x", 8<<10))
	require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
	require.Contains(t, a.problem(t).Detail, "held.bytes")
	w.set(t, service("cart", ready("main", says(t, "cart"))))
	require.Equal(t, "cart", (<-small).text)
}

func TestBusy(t *testing.T) {
	w := newWorld(t, Options{}, service("cart", ready("main", instance(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "one\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})), ready("pr-1", says(t, "pr-1"))))
	require.Empty(t, w.Busy())
	require.Equal(t, "pr-1", w.get(t, "cart.localhost", "/", "Baggage", toPR1).text)
	ctx, leave := context.WithCancel(t.Context())
	res, err := w.client.Do(w.request(t, http.MethodGet, "cart.localhost", "/", nil).WithContext(ctx))
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	_, err = bufio.NewReader(res.Body).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, []string{"cart@main"}, w.Busy())
	leave()
	eventually(t, func() bool { return len(w.Busy()) == 0 })
}
