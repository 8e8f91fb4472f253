package ecstest

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// logsService is Amazon CloudWatch Logs.
type logsService struct {
	cloud *Cloud

	mu     sync.Mutex
	groups map[string]*logGroup
	order  int64         // of arrival
	delay  time.Duration // until what arrived can be read
}

// logGroup has streams.
type logGroup struct {
	name    string
	created time.Time
	streams map[string]*logStream
}

// logStream has events in the order of their times, and of those with the same in that of their arrival.
type logStream struct {
	name    string
	created time.Time
	events  []logEvent
}

type logEvent struct {
	at      int64 // in milliseconds
	order   int64
	arrived time.Time
	message string
}

func (e logEvent) compare(other logEvent) int {
	return cmp.Or(cmp.Compare(e.at, other.at), cmp.Compare(e.order, other.order))
}

// Limits of CloudWatch Logs: https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/cloudwatch_limits_cwl.html.
const (
	maxPage         = 10_000
	maxPageBytes    = 1 << 20
	eventOverhead   = 26 // bytes that each event counts beside its message
	maxListed       = 50
	readRate        = 25 // calls a second, of each that reads events
	maxPutEvents    = 10_000
	maxEventMessage = 256<<10 - eventOverhead
)

func newLogs(c *Cloud) *logsService {
	return &logsService{cloud: c, groups: map[string]*logGroup{}}
}

// CreateLogGroup makes a log group, unless there is one.
func (c *Cloud) CreateLogGroup(name string) {
	c.logs.mu.Lock()
	defer c.logs.mu.Unlock()
	c.logs.make(name)
}

// SetLogDelay says how long what a task writes takes until it can be read.
func (c *Cloud) SetLogDelay(d time.Duration) {
	c.logs.mu.Lock()
	defer c.logs.mu.Unlock()
	c.logs.delay = d
}

func (l *logsService) make(name string) *logGroup {
	g := l.groups[name]
	if g == nil {
		g = &logGroup{name: name, created: time.Now(), streams: map[string]*logStream{}}
		l.groups[name] = g
	}
	return g
}

// groupExists says whether there is a log group.
func (l *logsService) groupExists(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.groups[name] != nil
}

// put takes one message as the awslogs driver sends it. The stream is made where it is not there yet, the group only
// where createGroup says so.
func (l *logsService) put(group, stream string, createGroup bool, at time.Time, message string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.groups[group]
	if g == nil && createGroup {
		g = l.make(group)
	}
	if g == nil {
		return fmt.Errorf("put log events into %s: %w", group, noGroup())
	}
	s := g.streams[stream]
	if s == nil {
		s = &logStream{name: stream, created: time.Now()}
		g.streams[stream] = s
	}
	if message == "" {
		return nil // which the driver leaves out, as an event has one character at least
	}
	l.add(s, at.UnixMilli(), message)
	return nil
}

func (l *logsService) add(s *logStream, at int64, message string) {
	l.order++
	e := logEvent{at: at, order: l.order, arrived: time.Now(), message: message}
	n, _ := slices.BinarySearchFunc(s.events, e, logEvent.compare)
	s.events = slices.Insert(s.events, n, e)
}

func noGroup() *apiError {
	return apiErrorf("ResourceNotFoundException", "The specified log group does not exist.")
}

func noStream() *apiError {
	return apiErrorf("ResourceNotFoundException", "The specified log stream does not exist.")
}

// logsQuestion is what any call asks for.
type logsQuestion struct {
	LogGroupName        string   `json:"logGroupName"`
	LogGroupIdentifier  string   `json:"logGroupIdentifier"`
	LogGroupNamePrefix  string   `json:"logGroupNamePrefix"`
	LogStreamName       string   `json:"logStreamName"`
	LogStreamNamePrefix string   `json:"logStreamNamePrefix"`
	LogStreamNames      []string `json:"logStreamNames"`
	FilterPattern       string   `json:"filterPattern"`
	OrderBy             string   `json:"orderBy"`
	Descending          bool     `json:"descending"`
	StartTime           *int64   `json:"startTime"`
	EndTime             *int64   `json:"endTime"`
	StartFromHead       bool     `json:"startFromHead"`
	Limit               int      `json:"limit"`
	NextToken           string   `json:"nextToken"`
	LogEvents           []struct {
		Timestamp int64  `json:"timestamp"`
		Message   string `json:"message"`
	} `json:"logEvents"`
}

// call answers one call.
func (l *logsService) call(call *request) (any, *apiError) {
	serve, ok := map[string]func(logsQuestion) (any, *apiError){
		"CreateLogGroup": l.createGroup, "DeleteLogGroup": l.deleteGroup, "DescribeLogGroups": l.describeGroups,
		"CreateLogStream": l.createStream, "DescribeLogStreams": l.describeStreams,
		"PutLogEvents": l.putEvents, "GetLogEvents": l.getEvents, "FilterLogEvents": l.filterEvents,
	}[call.action]
	if !ok {
		return nil, unknownAction(call)
	}
	in, err := readJSON[logsQuestion](call)
	if err != nil {
		return nil, err
	}
	if in.LogGroupName == "" && in.LogGroupIdentifier != "" {
		_, name, isARN := strings.Cut(in.LogGroupIdentifier, ":log-group:")
		if !isARN {
			name = in.LogGroupIdentifier
		}
		in.LogGroupName = strings.TrimSuffix(name, ":*")
	}
	// What is asked for is a stream, or all of a group, which a policy names as GROUP:*.
	resource := l.groupARN(in.LogGroupName) + ":log-stream:" + in.LogStreamName
	if err := l.cloud.iam.authorize(call, "logs:"+call.action, resource, nil); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return serve(in)
}

func (l *logsService) groupARN(name string) string {
	return "arn:aws:logs:" + l.cloud.region + ":" + l.cloud.account + ":log-group:" + name
}

func (l *logsService) createGroup(in logsQuestion) (any, *apiError) {
	if l.groups[in.LogGroupName] != nil {
		return nil, apiErrorf("ResourceAlreadyExistsException", "The specified log group already exists")
	}
	l.make(in.LogGroupName)
	return nil, nil
}

func (l *logsService) deleteGroup(in logsQuestion) (any, *apiError) {
	if l.groups[in.LogGroupName] == nil {
		return nil, noGroup()
	}
	delete(l.groups, in.LogGroupName)
	return nil, nil
}

type describedGroup struct {
	Name    string `json:"logGroupName"`
	ARN     string `json:"arn"`
	Created int64  `json:"creationTime"`
	Filters int    `json:"metricFilterCount"`
	Bytes   int64  `json:"storedBytes"`
}

func (l *logsService) describeGroups(in logsQuestion) (any, *apiError) {
	names := slices.Sorted(maps.Keys(l.groups))
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, in.LogGroupNamePrefix) })
	page, next := pageOf(names, in.NextToken, in.Limit)
	out := struct {
		Groups []describedGroup `json:"logGroups"`
		Next   string           `json:"nextToken,omitempty"`
	}{Groups: []describedGroup{}, Next: next}
	for _, name := range page {
		g := l.groups[name]
		out.Groups = append(out.Groups, describedGroup{Name: name, ARN: l.groupARN(name) + ":*", Created: g.created.UnixMilli()})
	}
	return out, nil
}

// pageOf returns the names behind the one that a token has, and the token of the next page.
func pageOf(names []string, token string, limit int) (page []string, next string) {
	if limit == 0 {
		limit = maxListed
	}
	if token != "" {
		if n := slices.Index(names, token); n >= 0 {
			names = names[n+1:]
		} else {
			names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name <= token })
		}
	}
	if len(names) > limit {
		return names[:limit], names[limit-1]
	}
	return names, ""
}

func (l *logsService) createStream(in logsQuestion) (any, *apiError) {
	g := l.groups[in.LogGroupName]
	switch {
	case g == nil:
		return nil, noGroup()
	case g.streams[in.LogStreamName] != nil:
		return nil, apiErrorf("ResourceAlreadyExistsException", "The specified log stream already exists")
	}
	g.streams[in.LogStreamName] = &logStream{name: in.LogStreamName, created: time.Now()}
	return nil, nil
}

type describedStream struct {
	Name     string `json:"logStreamName"`
	ARN      string `json:"arn"`
	Created  int64  `json:"creationTime"`
	First    int64  `json:"firstEventTimestamp,omitempty"`
	Last     int64  `json:"lastEventTimestamp,omitempty"`
	Ingested int64  `json:"lastIngestionTime,omitempty"`
	Bytes    int64  `json:"storedBytes"`
}

func (l *logsService) describeStreams(in logsQuestion) (any, *apiError) {
	g := l.groups[in.LogGroupName]
	if g == nil {
		return nil, noGroup()
	}
	if in.OrderBy == "LastEventTime" && in.LogStreamNamePrefix != "" {
		return nil, apiErrorf("InvalidParameterException", "Cannot order by LastEventTime with a logStreamNamePrefix.")
	}
	last := func(name string) int64 {
		s := g.streams[name]
		if len(s.events) == 0 {
			return s.created.UnixMilli()
		}
		return s.events[len(s.events)-1].at
	}
	names := slices.Sorted(maps.Keys(g.streams))
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, in.LogStreamNamePrefix) })
	if in.OrderBy == "LastEventTime" {
		slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(last(a), last(b)) })
	}
	if in.Descending {
		slices.Reverse(names)
	}
	if in.NextToken != "" && !slices.Contains(names, in.NextToken) {
		return nil, badToken()
	}
	page, next := pageOf(names, in.NextToken, in.Limit)
	out := struct {
		Streams []describedStream `json:"logStreams"`
		Next    string            `json:"nextToken,omitempty"`
	}{Streams: []describedStream{}, Next: next}
	for _, name := range page {
		s := g.streams[name]
		d := describedStream{Name: name, ARN: l.groupARN(g.name) + ":log-stream:" + name, Created: s.created.UnixMilli()}
		if n := len(s.events); n > 0 {
			d.First, d.Last = s.events[0].at, s.events[n-1].at
			for _, e := range s.events {
				d.Ingested = max(d.Ingested, e.arrived.UnixMilli())
			}
		}
		out.Streams = append(out.Streams, d)
	}
	return out, nil
}

func (l *logsService) putEvents(in logsQuestion) (any, *apiError) {
	s, err := l.stream(in)
	if err != nil {
		return nil, err
	}
	for n, e := range in.LogEvents {
		switch {
		case len(e.Message) > maxEventMessage:
			return nil, apiErrorf("InvalidParameterException", "Log event too large: %d bytes exceeds limit of %d", len(e.Message)+eventOverhead, maxEventMessage+eventOverhead)
		case n > 0 && e.Timestamp < in.LogEvents[n-1].Timestamp:
			return nil, apiErrorf("InvalidParameterException", "Log events in a single PutLogEvents request must be in chronological order.")
		}
	}
	if len(in.LogEvents) > maxPutEvents {
		return nil, apiErrorf("InvalidParameterException", "The batch has more than %d log events", maxPutEvents)
	}
	for _, e := range in.LogEvents {
		l.add(s, e.Timestamp, e.Message)
	}
	return struct {
		Next string `json:"nextSequenceToken"`
	}{strconv.FormatInt(l.order, 10)}, nil
}

func (l *logsService) stream(in logsQuestion) (*logStream, *apiError) {
	g := l.groups[in.LogGroupName]
	if g == nil {
		return nil, noGroup()
	}
	s := g.streams[in.LogStreamName]
	if s == nil {
		return nil, noStream()
	}
	return s, nil
}

// readable are the events of a stream that can be read by now, of the times that are asked for.
func (l *logsService) readable(s *logStream, in logsQuestion) []logEvent {
	now := time.Now()
	var out []logEvent
	for _, e := range s.events {
		if e.arrived.Add(l.delay).After(now) || in.StartTime != nil && e.at < *in.StartTime || in.EndTime != nil && e.at >= *in.EndTime {
			continue
		}
		out = append(out, e)
	}
	return out
}

type gotEvent struct {
	Timestamp int64  `json:"timestamp"`
	Message   string `json:"message"`
	Ingested  int64  `json:"ingestionTime"`
}

type gotEvents struct {
	Events   []gotEvent `json:"events"`
	Forward  string     `json:"nextForwardToken"`
	Backward string     `json:"nextBackwardToken"`
}

// logPlace is where a token of GetLogEvents stands: before the first event, behind an event, or before one.
type logPlace struct {
	backward bool
	event    logEvent // only what orders it
}

var tokenForm = regexp.MustCompile(`^([fb])/(\d{20})(\d{20})/s$`)

func (p logPlace) token() string {
	direction := "f"
	if p.backward {
		direction = "b"
	}
	return fmt.Sprintf("%s/%020d%020d/s", direction, p.event.at, p.event.order)
}

func readToken(text string) (logPlace, *apiError) {
	found := tokenForm.FindStringSubmatch(text)
	if found == nil {
		return logPlace{}, badToken()
	}
	at, err1 := strconv.ParseInt(found[2], 10, 64)
	order, err2 := strconv.ParseInt(found[3], 10, 64)
	if err1 != nil || err2 != nil {
		return logPlace{}, badToken()
	}
	return logPlace{backward: found[1] == "b", event: logEvent{at: at, order: order}}, nil
}

func badToken() *apiError {
	return apiErrorf("InvalidParameterException", "The specified nextToken is invalid.")
}

// getEvents reads a page of a stream. Both tokens are always there: behind the last event, the one to go on with
// is the one that was given.
func (l *logsService) getEvents(in logsQuestion) (any, *apiError) {
	s, err := l.stream(in)
	if err != nil {
		return nil, err
	}
	limit := in.Limit
	if limit == 0 {
		limit = maxPage
	}
	all := l.readable(s, in)
	from := logPlace{backward: !in.StartFromHead}
	if in.NextToken != "" {
		if from, err = readToken(in.NextToken); err != nil {
			return nil, err
		}
		n, found := slices.BinarySearchFunc(all, from.event, logEvent.compare)
		switch {
		case from.backward:
			all = all[:n]
		case found:
			all = all[n+1:]
		default:
			all = all[n:]
		}
	}
	page := cutPage(all, limit, from.backward)
	out := gotEvents{Events: []gotEvent{}, Forward: logPlace{event: from.event}.token(), Backward: logPlace{backward: true, event: from.event}.token()}
	for _, e := range page {
		out.Events = append(out.Events, gotEvent{Timestamp: e.at, Message: e.message, Ingested: e.arrived.UnixMilli()})
	}
	if in.NextToken != "" && from.backward && from.event.order > 0 { // behind what is before the event
		out.Forward = logPlace{event: logEvent{at: from.event.at, order: from.event.order - 1}}.token()
	}
	if n := len(page); n > 0 {
		out.Forward = logPlace{event: page[n-1]}.token()
		out.Backward = logPlace{backward: true, event: page[0]}.token()
	}
	return out, nil
}

// cutPage takes as many events as a page may have, from the front or the back.
func cutPage(all []logEvent, limit int, back bool) []logEvent {
	n, bytes := 0, 0
	for n < len(all) && n < limit {
		e := all[n]
		if back {
			e = all[len(all)-1-n]
		}
		if bytes += len(e.message) + eventOverhead; bytes > maxPageBytes && n > 0 {
			break
		}
		n++
	}
	if back {
		return all[len(all)-n:]
	}
	return all[:n]
}

type filteredEvent struct {
	gotEvent
	Stream string `json:"logStreamName"`
	ID     string `json:"eventId"`
}

// filterEvents reads of several streams. Of the language of filters it has words that all have to be there.
func (l *logsService) filterEvents(in logsQuestion) (any, *apiError) {
	g := l.groups[in.LogGroupName]
	if g == nil {
		return nil, noGroup()
	}
	if strings.ContainsAny(in.FilterPattern, "{[?%-") {
		return nil, apiErrorf("InvalidParameterException", "Invalid filter pattern: the fake has words only")
	}
	var words []string
	for w := range strings.FieldsSeq(in.FilterPattern) {
		words = append(words, strings.Trim(w, `"`))
	}
	type found struct {
		logEvent
		stream string
	}
	var all []found
	for name, s := range g.streams {
		if len(in.LogStreamNames) > 0 && !slices.Contains(in.LogStreamNames, name) || !strings.HasPrefix(name, in.LogStreamNamePrefix) {
			continue
		}
		for _, e := range l.readable(s, in) {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(e.message, w) }) {
				all = append(all, found{e, name})
			}
		}
	}
	slices.SortFunc(all, func(a, b found) int { return a.compare(b.logEvent) })
	if in.NextToken != "" {
		at, err := readToken(in.NextToken)
		if err != nil {
			return nil, err
		}
		all = slices.DeleteFunc(all, func(f found) bool { return f.compare(at.event) <= 0 })
	}
	limit := in.Limit
	if limit == 0 {
		limit = maxPage
	}
	out := struct {
		Events []filteredEvent `json:"events"`
		Next   string          `json:"nextToken,omitempty"`
	}{Events: []filteredEvent{}}
	bytes := 0
	for n, f := range all {
		if bytes += len(f.message) + eventOverhead; n == limit || bytes > maxPageBytes && n > 0 {
			out.Next = logPlace{event: all[n-1].logEvent}.token()
			break
		}
		out.Events = append(out.Events, filteredEvent{
			gotEvent: gotEvent{Timestamp: f.at, Message: f.message, Ingested: f.arrived.UnixMilli()},
			Stream:   f.stream, ID: fmt.Sprintf("%028d%028d", f.at, f.order),
		})
	}
	return out, nil
}
