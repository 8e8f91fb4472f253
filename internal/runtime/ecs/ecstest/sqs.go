package ecstest

import (
	"crypto/md5" //nolint:gosec // what SQS has
	"encoding/hex"
	"slices"
	"strings"
	"sync"
	"time"
)

// sqsService is the API of SQS, of standard queues: a message may come twice, and in any order.
type sqsService struct {
	cloud  *Cloud
	mu     sync.Mutex
	queues map[string]*queue // by name
}

type queue struct {
	name     string
	messages []*message
	arrived  chan struct{} // closed at the next one
}

type message struct {
	id, body, receipt string
	hidden            time.Time
	received          int
}

// maxMessages bounds what a queue that nobody reads holds.
const maxMessages = 100_000

func newSQS(c *Cloud) *sqsService { return &sqsService{cloud: c, queues: map[string]*queue{}} }

// CreateQueue makes a queue, and returns its URL.
func (c *Cloud) CreateQueue(name string) string {
	c.sqs.mu.Lock()
	defer c.sqs.mu.Unlock()
	if c.sqs.queues[name] == nil {
		c.sqs.queues[name] = &queue{name: name, arrived: make(chan struct{})}
	}
	return c.sqs.url(name)
}

// QueueLength is how many messages a queue has that were not deleted.
func (c *Cloud) QueueLength(name string) int {
	c.sqs.mu.Lock()
	defer c.sqs.mu.Unlock()
	return len(c.sqs.queues[name].messages)
}

func (s *sqsService) url(name string) string {
	return s.cloud.URL() + "/" + s.cloud.account + "/" + name
}

func (s *sqsService) arn(name string) string {
	return "arn:aws:sqs:" + s.cloud.region + ":" + s.cloud.account + ":" + name
}

func (s *sqsService) send(name, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[name]
	if q == nil || len(q.messages) >= maxMessages {
		return
	}
	q.messages = append(q.messages, &message{id: newID(), body: body})
	close(q.arrived)
	q.arrived = make(chan struct{})
}

type sqsInput struct {
	QueueName           string
	QueueUrl            string //nolint:revive // as SQS has it
	MaxNumberOfMessages int
	WaitTimeSeconds     int
	VisibilityTimeout   *int
	ReceiptHandle       string
	MessageBody         string
	Entries             []struct {
		Id            string //nolint:revive // as SQS has it
		ReceiptHandle string
	}
}

func (s *sqsService) call(call *request) (any, *apiError) {
	in, err := decode[sqsInput](call)
	if err != nil {
		return nil, err
	}
	if call.action == "CreateQueue" {
		if err := s.cloud.iam.authorize(call, "sqs:CreateQueue", s.arn(in.QueueName), nil); err != nil {
			return nil, err
		}
		return map[string]any{"QueueUrl": s.cloud.CreateQueue(in.QueueName)}, nil
	}
	name := in.QueueName
	if name == "" {
		name = shortName(in.QueueUrl)
	}
	action := strings.TrimSuffix(call.action, "Batch")
	if err := s.cloud.iam.authorize(call, "sqs:"+action, s.arn(name), nil); err != nil {
		return nil, err
	}
	s.mu.Lock()
	q := s.queues[name]
	s.mu.Unlock()
	if q == nil {
		return nil, apiErrorf("com.amazonaws.sqs#QueueDoesNotExist", "The specified queue does not exist.")
	}
	switch call.action {
	case "GetQueueUrl":
		return map[string]any{"QueueUrl": s.url(name)}, nil
	case "GetQueueAttributes":
		return map[string]any{"Attributes": map[string]string{"QueueArn": s.arn(name), "ApproximateNumberOfMessages": "0"}}, nil
	case "SendMessage":
		s.send(name, in.MessageBody)
		return map[string]any{"MessageId": newID(), "MD5OfMessageBody": md5of(in.MessageBody)}, nil
	case "ReceiveMessage":
		return s.receive(call, q, in), nil
	case "DeleteMessage":
		s.remove(q, in.ReceiptHandle)
		return nil, nil
	case "DeleteMessageBatch":
		if len(in.Entries) == 0 || len(in.Entries) > 10 {
			return nil, apiErrorf("com.amazonaws.sqs#TooManyEntriesInBatchRequest", "Maximum number of entries per request are 10.")
		}
		done := []any{}
		for _, e := range in.Entries {
			s.remove(q, e.ReceiptHandle)
			done = append(done, map[string]any{"Id": e.Id})
		}
		return map[string]any{"Successful": done, "Failed": []any{}}, nil
	}
	return nil, apiErrorf("UnknownOperationException", "this fake has no sqs:%s", call.action)
}

func md5of(text string) string {
	sum := md5.Sum([]byte(text)) //nolint:gosec // what SQS has
	return hex.EncodeToString(sum[:])
}

func (s *sqsService) receive(call *request, q *queue, in sqsInput) any {
	most := max(1, min(10, in.MaxNumberOfMessages))
	hide := 30 * time.Second
	if in.VisibilityTimeout != nil {
		hide = time.Duration(*in.VisibilityTimeout) * time.Second
	}
	deadline := time.NewTimer(time.Duration(min(20, in.WaitTimeSeconds)) * time.Second)
	defer deadline.Stop()
	for {
		s.mu.Lock()
		var got []any
		for _, m := range q.messages {
			if len(got) < most && time.Now().After(m.hidden) {
				m.hidden, m.receipt, m.received = time.Now().Add(hide), newID(), m.received+1
				got = append(got, map[string]any{"MessageId": m.id, "Body": m.body, "ReceiptHandle": m.receipt, "MD5OfBody": md5of(m.body)})
			}
		}
		arrived := q.arrived
		s.mu.Unlock()
		if len(got) > 0 {
			return map[string]any{"Messages": got}
		}
		select {
		case <-arrived:
		case <-deadline.C:
			return map[string]any{}
		case <-call.ctx.Done():
			return map[string]any{}
		}
	}
}

func (s *sqsService) remove(q *queue, receipt string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q.messages = slices.DeleteFunc(q.messages, func(m *message) bool { return m.receipt == receipt })
}
