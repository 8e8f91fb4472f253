package ecstest

import (
	"errors"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// logsService is the API of CloudWatch Logs.
type logsService struct {
	cloud  *Cloud
	mu     sync.Mutex
	groups map[string]map[string]*stream
}

type stream struct{ events []logEvent }

type logEvent struct {
	Timestamp     int64  `json:"timestamp"` // ms
	Message       string `json:"message"`
	IngestionTime int64  `json:"ingestionTime"`
}

const maxPage = 1 << 20 // bytes

func newLogs(c *Cloud) *logsService {
	return &logsService{cloud: c, groups: map[string]map[string]*stream{}}
}

// CreateLogGroup makes a log group.
func (c *Cloud) CreateLogGroup(name string) {
	c.logs.mu.Lock()
	defer c.logs.mu.Unlock()
	if c.logs.groups[name] == nil {
		c.logs.groups[name] = map[string]*stream{}
	}
}

func (l *logsService) groupExists(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.groups[name] != nil
}

// put writes a line, as the awslogs driver does.
func (l *logsService) put(group, name string, create bool, at time.Time, text string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.groups[group]
	if g == nil && create {
		g = map[string]*stream{}
		l.groups[group] = g
	}
	if g == nil {
		return errors.New("ResourceNotFoundException: The specified log group does not exist.")
	}
	if g[name] == nil {
		g[name] = &stream{}
	}
	if text == "" {
		return nil // the API takes no empty message
	}
	g[name].events = append(g[name].events, logEvent{Timestamp: at.UnixMilli(), Message: text, IngestionTime: time.Now().UnixMilli()})
	return nil
}

type logsInput struct {
	LogGroupName       string `json:"logGroupName"`
	LogGroupNamePrefix string `json:"logGroupNamePrefix"`
	LogStreamName      string `json:"logStreamName"`
	StartTime          *int64 `json:"startTime"`
	EndTime            *int64 `json:"endTime"`
	Limit              int    `json:"limit"`
	NextToken          string `json:"nextToken"`
	StartFromHead      bool   `json:"startFromHead"`
	LogEvents          []struct {
		Timestamp int64  `json:"timestamp"`
		Message   string `json:"message"`
	} `json:"logEvents"`
}

func (l *logsService) call(call *request) (any, *apiError) {
	in, err := decode[logsInput](call)
	if err != nil {
		return nil, err
	}
	arn := "arn:aws:logs:" + l.cloud.region + ":" + l.cloud.account + ":log-group:" + in.LogGroupName
	resource := arn + ":*"
	if call.action == "GetLogEvents" || call.action == "PutLogEvents" {
		resource = arn + ":log-stream:" + in.LogStreamName
	}
	if call.action == "DescribeLogGroups" {
		resource = "arn:aws:logs:" + l.cloud.region + ":" + l.cloud.account + ":log-group:*"
	}
	if err := l.cloud.iam.authorize(call, "logs:"+call.action, resource, nil); err != nil {
		return nil, err
	}
	switch call.action {
	case "CreateLogGroup":
		l.cloud.CreateLogGroup(in.LogGroupName)
		return nil, nil
	case "DescribeLogGroups":
		return l.describe(in), nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.groups[in.LogGroupName]
	if g == nil {
		return nil, apiErrorf("ResourceNotFoundException", "The specified log group does not exist.")
	}
	if call.action == "CreateLogStream" {
		g[in.LogStreamName] = &stream{}
		return nil, nil
	}
	s := g[in.LogStreamName]
	if s == nil {
		return nil, apiErrorf("ResourceNotFoundException", "The specified log stream does not exist.")
	}
	switch call.action {
	case "PutLogEvents":
		for _, e := range in.LogEvents {
			s.events = append(s.events, logEvent{Timestamp: e.Timestamp, Message: e.Message, IngestionTime: time.Now().UnixMilli()})
		}
		return map[string]any{"nextSequenceToken": newID()}, nil
	case "GetLogEvents":
		return s.get(in)
	}
	return nil, apiErrorf("UnknownOperationException", "this fake has no logs:%s", call.action)
}

func (l *logsService) describe(in logsInput) any {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := []any{}
	for name := range l.groups {
		if strings.HasPrefix(name, in.LogGroupNamePrefix) {
			found = append(found, map[string]any{"logGroupName": name, "arn": "arn:aws:logs:" + l.cloud.region + ":" + l.cloud.account + ":log-group:" + name + ":*", "creationTime": time.Now().UnixMilli()})
		}
	}
	return map[string]any{"logGroups": found}
}

// get gives a page. A token says in which direction it reads and where it is in the stream; the end of it has the
// token that it was reached with.
func (s *stream) get(in logsInput) (any, *apiError) {
	sort.SliceStable(s.events, func(i, j int) bool { return s.events[i].Timestamp < s.events[j].Timestamp })
	first, last := 0, len(s.events)
	if in.StartTime != nil {
		first = sort.Search(len(s.events), func(i int) bool { return s.events[i].Timestamp >= *in.StartTime })
	}
	if in.EndTime != nil {
		last = sort.Search(len(s.events), func(i int) bool { return s.events[i].Timestamp >= *in.EndTime })
	}
	limit := in.Limit
	if limit <= 0 || limit > 10_000 {
		limit = 10_000
	}
	forward, from := in.StartFromHead, first
	if !forward {
		from = last
	}
	if in.NextToken != "" {
		direction, at, _ := strings.Cut(in.NextToken, "/")
		n, err := strconv.Atoi(at)
		if err != nil || direction != "f" && direction != "b" {
			return nil, apiErrorf("InvalidParameterException", "The specified nextToken is invalid.")
		}
		forward, from = direction == "f", n
	}
	to, size := from, 0
	if forward {
		from = max(from, first)
		for to = from; to < last && to-from < limit && size < maxPage; to++ {
			size += len(s.events[to].Message) + 26
		}
	} else {
		to = min(from, last)
		for from = to; from > first && to-from < limit && size < maxPage; from-- {
			size += len(s.events[from-1].Message) + 26
		}
	}
	events := append([]logEvent{}, s.events[from:max(from, to)]...)
	return map[string]any{
		"events": events, "nextForwardToken": "f/" + strconv.Itoa(to), "nextBackwardToken": "b/" + strconv.Itoa(from),
	}, nil
}
