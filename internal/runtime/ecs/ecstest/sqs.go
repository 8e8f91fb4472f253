package ecstest

import (
	"context"
	"crypto/md5" //nolint:gosec // SQS gives it, and clients check it
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// sqsService is Amazon SQS, with standard queues: what is received and not deleted comes again.
type sqsService struct {
	cloud *Cloud

	mu     sync.Mutex
	queues map[string]*queue // by name
}

// queue is a standard queue.
type queue struct {
	name       string
	arn        string
	created    time.Time
	changed    time.Time
	purged     time.Time
	attributes map[string]string
	messages   []*message
	news       chan struct{} // closed, and made anew, where something can be received that could not
}

// message is in a queue until it is deleted.
type message struct {
	id       string
	body     string
	sum      string
	sender   string
	sent     time.Time
	visible  time.Time // from when it can be received
	received int
	first    time.Time // when it was received first
	handle   string    // of the last receiving
}

const (
	maxBodyBytes  = 256 << 10
	maxInFlight   = 120_000
	maxWait       = 20
	maxReceive    = 10
	maxVisibility = 43200
	purgeAgain    = 60 * time.Second
)

func newSQS(c *Cloud) *sqsService { return &sqsService{cloud: c, queues: map[string]*queue{}} }

// CreateQueue makes a queue, or finds it, and returns its URL.
func (c *Cloud) CreateQueue(name string) (url string) {
	c.sqs.mu.Lock()
	defer c.sqs.mu.Unlock()
	if c.sqs.queues[name] == nil {
		c.sqs.queues[name] = c.sqs.newQueue(name)
	}
	return c.sqs.url(c.sqs.queues[name])
}

// QueueLength is how many messages a queue has that were not deleted.
func (c *Cloud) QueueLength(name string) int {
	c.sqs.mu.Lock()
	defer c.sqs.mu.Unlock()
	if q := c.sqs.queues[name]; q != nil {
		return len(q.messages)
	}
	return 0
}

// QueueARN is the ARN of a queue, as policies have it.
func (c *Cloud) QueueARN(name string) string {
	return "arn:aws:sqs:" + c.region + ":" + c.account + ":" + name
}

func (s *sqsService) newQueue(name string) *queue {
	now := time.Now()
	return &queue{
		name: name, arn: s.cloud.QueueARN(name), created: now, changed: now, news: make(chan struct{}),
		attributes: map[string]string{
			"VisibilityTimeout": "30", "MaximumMessageSize": strconv.Itoa(maxBodyBytes), "MessageRetentionPeriod": "345600",
			"DelaySeconds": "0", "ReceiveMessageWaitTimeSeconds": "0", "SqsManagedSseEnabled": "true",
		},
	}
}

func (s *sqsService) url(q *queue) string {
	return s.cloud.URL() + "/" + s.cloud.account + "/" + q.name
}

// byURL finds a queue. Clients may have the host by another name: the path says which it is.
func (s *sqsService) byURL(text string) *queue {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byURLLocked(text)
}

func (s *sqsService) byURLLocked(text string) *queue {
	u, err := url.Parse(text)
	if err != nil {
		return nil
	}
	name, ok := strings.CutPrefix(u.Path, "/"+s.cloud.account+"/")
	if !ok {
		return nil
	}
	return s.queues[name]
}

// deliver puts a message of EventBridge into a queue.
func (s *sqsService) deliver(url, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := s.byURLLocked(url); q != nil {
		q.add(body, "AIDAEVENTBRIDGE", time.Now())
	}
}

// add puts a message into the queue, which can be received from a time on.
func (q *queue) add(body, sender string, visible time.Time) *message {
	sum := md5.Sum([]byte(body)) //nolint:gosec // see above
	id := newID()
	m := &message{
		id: id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:], body: body, sum: hex.EncodeToString(sum[:]),
		sender: sender, sent: time.Now(), visible: visible,
	}
	q.messages = append(q.messages, m)
	q.tell()
	return m
}

// tell wakes who waits.
func (q *queue) tell() {
	close(q.news)
	q.news = make(chan struct{})
}

// sqsQuestion is what any call asks for.
type sqsQuestion struct {
	QueueName                   string
	QueueURL                    string `json:"QueueUrl"`
	QueueNamePrefix             string
	Attributes                  map[string]string
	AttributeNames              []string
	MessageSystemAttributeNames []string
	MaxNumberOfMessages         *int
	VisibilityTimeout           *int
	WaitTimeSeconds             *int
	DelaySeconds                *int
	MessageBody                 string
	MessageAttributes           map[string]any
	ReceiptHandle               string
	Entries                     []sqsEntry
}

// sqsEntry is one of a batch.
type sqsEntry struct {
	ID                string `json:"Id"`
	ReceiptHandle     string
	VisibilityTimeout int
}

// call answers one call.
func (s *sqsService) call(call *request) (any, *apiError) {
	serve, ok := map[string]func(*request, sqsQuestion) (any, *apiError){
		"CreateQueue": s.create, "GetQueueUrl": s.getURL, "ListQueues": s.list,
	}[call.action]
	onQueue, okQueue := map[string]func(*request, *queue, sqsQuestion) (any, *apiError){
		"GetQueueAttributes": s.getAttributes, "SetQueueAttributes": s.setAttributes, "DeleteQueue": s.remove, "PurgeQueue": s.purge,
		"SendMessage": s.send, "ReceiveMessage": s.receive, "DeleteMessage": s.deleteOne, "DeleteMessageBatch": s.deleteBatch,
		"ChangeMessageVisibility": s.changeOne, "ChangeMessageVisibilityBatch": s.changeBatch,
	}[call.action]
	if !ok && !okQueue {
		return nil, unknownAction(call)
	}
	var in sqsQuestion
	var err *apiError
	if call.form != nil {
		in, err = readSQSForm(call.form)
	} else {
		in, err = readJSON[sqsQuestion](call)
	}
	if err != nil {
		return nil, err
	}
	if ok {
		return serve(call, in)
	}
	q := s.byURL(in.QueueURL)
	name := in.QueueURL[strings.LastIndex(in.QueueURL, "/")+1:]
	if in.QueueURL == "" {
		return nil, apiErrorf("MissingParameter", "The request must contain the parameter QueueUrl.")
	}
	permission := "sqs:" + strings.TrimSuffix(call.action, "Batch")
	if err := s.cloud.iam.authorize(call, permission, s.cloud.QueueARN(name), nil); err != nil {
		return nil, err
	}
	if q == nil {
		return nil, noQueue()
	}
	return onQueue(call, q, in)
}

func noQueue() *apiError {
	return apiErrorf("QueueDoesNotExist", "The specified queue does not exist.")
}

// settable are the attributes of a queue that the fake takes, with their bounds; those with none are kept as they are.
func settable() map[string][2]int {
	return map[string][2]int{
		"VisibilityTimeout": {0, maxVisibility}, "MaximumMessageSize": {1024, maxBodyBytes}, "MessageRetentionPeriod": {60, 1209600},
		"DelaySeconds": {0, 900}, "ReceiveMessageWaitTimeSeconds": {0, maxWait}, "Policy": {}, "SqsManagedSseEnabled": {},
	}
}

func checkAttributes(set map[string]string) *apiError {
	for name, value := range set {
		bounds, ok := settable()[name]
		if !ok {
			return apiErrorf("InvalidAttributeName", "Unknown Attribute %s.", name)
		}
		if n, err := strconv.Atoi(value); bounds[1] > 0 && (err != nil || n < bounds[0] || n > bounds[1]) {
			return apiErrorf("InvalidAttributeValue", "Invalid value for the parameter %s.", name)
		}
	}
	return nil
}

var queueName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$`)

// queueURL is the answer of what makes or finds a queue.
type queueURL struct {
	QueueURL string `json:"QueueUrl" xml:"QueueUrl"`
}

func (s *sqsService) create(call *request, in sqsQuestion) (any, *apiError) {
	if !queueName.MatchString(in.QueueName) {
		return nil, apiErrorf("InvalidParameterValue", "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length")
	}
	if err := s.cloud.iam.authorize(call, "sqs:CreateQueue", s.cloud.QueueARN(in.QueueName), nil); err != nil {
		return nil, err
	}
	if err := checkAttributes(in.Attributes); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[in.QueueName]
	if q == nil {
		q = s.newQueue(in.QueueName)
		maps.Copy(q.attributes, in.Attributes)
		s.queues[q.name] = q
	}
	for name, value := range in.Attributes {
		if q.attributes[name] != value {
			return nil, apiErrorf("QueueNameExists", "A queue already exists with the same name and a different value for attribute %s", name)
		}
	}
	return queueURL{s.url(q)}, nil
}

func (s *sqsService) getURL(call *request, in sqsQuestion) (any, *apiError) {
	if err := s.cloud.iam.authorize(call, "sqs:GetQueueUrl", s.cloud.QueueARN(in.QueueName), nil); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[in.QueueName]
	if q == nil {
		return nil, noQueue()
	}
	return queueURL{s.url(q)}, nil
}

func (s *sqsService) list(call *request, in sqsQuestion) (any, *apiError) {
	if err := s.cloud.iam.authorize(call, "sqs:ListQueues", s.cloud.QueueARN("*"), nil); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out struct {
		QueueURLs []string `json:"QueueUrls,omitempty" xml:"QueueUrl"`
	}
	for _, name := range slices.Sorted(maps.Keys(s.queues)) {
		if strings.HasPrefix(name, in.QueueNamePrefix) {
			out.QueueURLs = append(out.QueueURLs, s.url(s.queues[name]))
		}
	}
	return out, nil
}

// attributes of a queue or a message.
type attributes map[string]string

// MarshalXML writes each as the query protocol has it.
func (a attributes) MarshalXML(e *xml.Encoder, _ xml.StartElement) error {
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if err := e.EncodeElement(struct{ Name, Value string }{name, a[name]}, named("Attribute")); err != nil {
			return err
		}
	}
	return nil
}

func (s *sqsService) getAttributes(_ *request, q *queue, in sqsQuestion) (any, *apiError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q.expire(time.Now())
	all := maps.Clone(q.attributes)
	ready, flying, delayed := 0, 0, 0
	for _, m := range q.messages {
		switch {
		case !m.visible.After(time.Now()):
			ready++
		case m.received > 0:
			flying++
		default:
			delayed++
		}
	}
	maps.Copy(all, map[string]string{
		"QueueArn": q.arn, "CreatedTimestamp": strconv.FormatInt(q.created.Unix(), 10), "LastModifiedTimestamp": strconv.FormatInt(q.changed.Unix(), 10),
		"ApproximateNumberOfMessages": strconv.Itoa(ready), "ApproximateNumberOfMessagesNotVisible": strconv.Itoa(flying),
		"ApproximateNumberOfMessagesDelayed": strconv.Itoa(delayed),
	})
	out := attributes{}
	for _, name := range in.AttributeNames {
		if name == "All" {
			out = all
			break
		}
		value, ok := all[name]
		if _, known := settable()[name]; !ok && !known {
			return nil, apiErrorf("InvalidAttributeName", "Unknown Attribute %s.", name)
		}
		if ok {
			out[name] = value
		}
	}
	return struct {
		Attributes attributes `json:",omitempty"`
	}{out}, nil
}

func (s *sqsService) setAttributes(_ *request, q *queue, in sqsQuestion) (any, *apiError) {
	if err := checkAttributes(in.Attributes); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.Copy(q.attributes, in.Attributes)
	q.changed = time.Now()
	return nil, nil
}

func (s *sqsService) remove(_ *request, q *queue, _ sqsQuestion) (any, *apiError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.queues, q.name)
	q.messages = nil
	q.tell()
	return nil, nil
}

func (s *sqsService) purge(_ *request, q *queue, _ sqsQuestion) (any, *apiError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(q.purged) < purgeAgain {
		return nil, &apiError{status: 403, code: "PurgeQueueInProgress", message: "Only one PurgeQueue operation on " + q.name + " is allowed every 60 seconds."}
	}
	q.purged, q.messages = time.Now(), nil
	return nil, nil
}

func (s *sqsService) send(call *request, q *queue, in sqsQuestion) (any, *apiError) {
	switch {
	case in.MessageBody == "":
		return nil, apiErrorf("MissingParameter", "The request must contain the parameter MessageBody.")
	case len(in.MessageBody) > maxBodyBytes:
		return nil, apiErrorf("InvalidParameterValue", "One or more parameters are invalid. Reason: Message must be shorter than %d bytes.", maxBodyBytes)
	case len(in.MessageAttributes) > 0:
		return nil, apiErrorf("UnsupportedOperation", "the fake has no attributes of messages")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := q.add(in.MessageBody, call.caller.userID, time.Now().Add(q.seconds("DelaySeconds", in.DelaySeconds)))
	return struct {
		MessageID string `json:"MessageId" xml:"MessageId"`
		Sum       string `json:"MD5OfMessageBody" xml:"MD5OfMessageBody"`
	}{m.id, m.sum}, nil
}

// seconds is a time that a call may give instead of the queue.
func (q *queue) seconds(attribute string, given *int) time.Duration {
	n, _ := strconv.Atoi(q.attributes[attribute])
	if given != nil {
		n = *given
	}
	return time.Duration(n) * time.Second
}

// receivedMessage is a message as it is given.
type receivedMessage struct {
	MessageID     string     `json:"MessageId" xml:"MessageId"`
	ReceiptHandle string     `json:"ReceiptHandle"`
	Sum           string     `json:"MD5OfBody" xml:"MD5OfBody"`
	Body          string     `json:"Body"`
	Attributes    attributes `json:"Attributes,omitempty"`
}

type receivedMessages struct {
	Messages []receivedMessage `json:"Messages,omitempty" xml:"Message"`
}

func (s *sqsService) receive(call *request, q *queue, in sqsQuestion) (any, *apiError) {
	count := 1
	if in.MaxNumberOfMessages != nil {
		count = *in.MaxNumberOfMessages
	}
	invalid := func(name string, value, low, high int) *apiError {
		return apiErrorf("InvalidParameterValue", "Value %d for parameter %s is invalid. Reason: Must be between %d and %d, if provided.", value, name, low, high)
	}
	switch {
	case count < 1 || count > maxReceive:
		return nil, invalid("MaxNumberOfMessages", count, 1, maxReceive)
	case in.WaitTimeSeconds != nil && (*in.WaitTimeSeconds < 0 || *in.WaitTimeSeconds > maxWait):
		return nil, invalid("WaitTimeSeconds", *in.WaitTimeSeconds, 0, maxWait)
	case in.VisibilityTimeout != nil && (*in.VisibilityTimeout < 0 || *in.VisibilityTimeout > maxVisibility):
		return nil, invalid("VisibilityTimeout", *in.VisibilityTimeout, 0, maxVisibility)
	}
	s.mu.Lock()
	wait := q.seconds("ReceiveMessageWaitTimeSeconds", in.WaitTimeSeconds)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(call.ctx, wait)
	defer cancel()
	for {
		got, news, next, err := s.take(q, in, count)
		if err != nil || len(got) > 0 || ctx.Err() != nil {
			return receivedMessages{got}, err
		}
		t := time.NewTimer(time.Until(next))
		select {
		case <-news:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// take takes what can be received now. Where that is nothing, news tells of what comes, and next is when something
// comes back.
func (s *sqsService) take(q *queue, in sqsQuestion, count int) (got []receivedMessage, news <-chan struct{}, next time.Time, err *apiError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queues[q.name] != q {
		return nil, nil, next, noQueue()
	}
	now := time.Now()
	q.expire(now)
	next = now.Add(maxWait * time.Second)
	flying := 0
	for _, m := range q.messages {
		if m.visible.After(now) && m.received > 0 {
			flying++
		}
	}
	if flying >= maxInFlight {
		return nil, nil, next, &apiError{status: 403, code: "OverLimit", message: "The maximum number of in flight messages is reached."}
	}
	hidden := q.seconds("VisibilityTimeout", in.VisibilityTimeout)
	for _, m := range q.messages {
		if len(got) == count {
			break
		}
		if m.visible.After(now) {
			if m.visible.Before(next) {
				next = m.visible
			}
			continue
		}
		m.visible, m.handle = now.Add(hidden), receiptOf(m)
		m.received++
		if m.received == 1 {
			m.first = now
		}
		got = append(got, receivedMessage{
			MessageID: m.id, ReceiptHandle: m.handle, Sum: m.sum, Body: m.body,
			Attributes: m.attributes(slices.Concat(in.AttributeNames, in.MessageSystemAttributeNames)),
		})
	}
	return got, q.news, next, nil
}

// receiptOf is a new receipt handle of a message.
func receiptOf(m *message) string { return newID() + "." + m.id }

func (m *message) attributes(names []string) attributes {
	ms := func(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }
	all := attributes{
		"SenderId": m.sender, "SentTimestamp": ms(m.sent), "ApproximateReceiveCount": strconv.Itoa(m.received),
		"ApproximateFirstReceiveTimestamp": ms(m.first),
	}
	if slices.Contains(names, "All") {
		return all
	}
	maps.DeleteFunc(all, func(name, _ string) bool { return !slices.Contains(names, name) })
	return all
}

// expire drops what is too old.
func (q *queue) expire(now time.Time) {
	oldest := now.Add(-q.seconds("MessageRetentionPeriod", nil))
	q.messages = slices.DeleteFunc(q.messages, func(m *message) bool { return m.sent.Before(oldest) })
}

// find finds the message of a receipt handle; nil where it is deleted, or was received again since.
func (q *queue) find(handle string) (*message, *apiError) {
	secret, id, ok := strings.Cut(handle, ".")
	if !ok || len(secret) != len(newID()) {
		return nil, apiErrorf("ReceiptHandleIsInvalid", "The input receipt handle %q is not a valid receipt handle.", handle)
	}
	for _, m := range q.messages {
		if m.id == id && m.handle == handle {
			return m, nil
		}
	}
	return nil, nil
}

func (s *sqsService) deleteOne(_ *request, q *queue, in sqsQuestion) (any, *apiError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return nil, q.remove(in.ReceiptHandle)
}

func (q *queue) remove(handle string) *apiError {
	m, err := q.find(handle)
	if m != nil {
		q.messages = slices.DeleteFunc(q.messages, func(other *message) bool { return other == m })
	}
	return err
}

func (s *sqsService) changeOne(_ *request, q *queue, in sqsQuestion) (any, *apiError) {
	if in.VisibilityTimeout == nil {
		return nil, apiErrorf("MissingParameter", "The request must contain the parameter VisibilityTimeout.")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return nil, q.hide(in.ReceiptHandle, *in.VisibilityTimeout)
}

// hide changes when a message can be received again.
func (q *queue) hide(handle string, seconds int) *apiError {
	m, err := q.find(handle)
	switch {
	case err != nil:
		return err
	case seconds < 0 || seconds > maxVisibility:
		return apiErrorf("InvalidParameterValue", "Value %d for parameter VisibilityTimeout is invalid. Reason: Must be between 0 and %d.", seconds, maxVisibility)
	case m == nil || !m.visible.After(time.Now()):
		return apiErrorf("MessageNotInflight", "The specified message isn't in flight.")
	}
	m.visible = time.Now().Add(time.Duration(seconds) * time.Second)
	q.tell()
	return nil
}

// batchAnswer says what became of each of a batch.
type batchAnswer struct {
	action     string
	Successful []batchDone
	Failed     []batchFailed
}

type batchDone struct {
	ID string `json:"Id" xml:"Id"`
}

type batchFailed struct {
	ID          string `json:"Id" xml:"Id"`
	SenderFault bool
	Code        string
	Message     string
}

// MarshalXML writes each as the query protocol has it.
func (b batchAnswer) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	if err := e.EncodeToken(start); err != nil {
		return err
	}
	for _, done := range b.Successful {
		if err := e.EncodeElement(done, named(b.action+"ResultEntry")); err != nil {
			return err
		}
	}
	for _, failed := range b.Failed {
		if err := e.EncodeElement(failed, named("BatchResultErrorEntry")); err != nil {
			return err
		}
	}
	return e.EncodeToken(start.End())
}

func (s *sqsService) deleteBatch(call *request, q *queue, in sqsQuestion) (any, *apiError) {
	return s.batch(call, in, func(one sqsEntry) *apiError { return q.remove(one.ReceiptHandle) })
}

func (s *sqsService) changeBatch(call *request, q *queue, in sqsQuestion) (any, *apiError) {
	return s.batch(call, in, func(one sqsEntry) *apiError { return q.hide(one.ReceiptHandle, one.VisibilityTimeout) })
}

func (s *sqsService) batch(call *request, in sqsQuestion, each func(sqsEntry) *apiError) (any, *apiError) {
	if len(in.Entries) == 0 {
		return nil, apiErrorf("EmptyBatchRequest", "There should be at least one %sRequestEntry in the request.", call.action)
	}
	if len(in.Entries) > maxReceive {
		return nil, apiErrorf("TooManyEntriesInBatchRequest", "Maximum number of entries per request are %d. You have sent %d.", maxReceive, len(in.Entries))
	}
	seen := map[string]bool{}
	for _, one := range in.Entries {
		if !queueName.MatchString(one.ID) {
			return nil, apiErrorf("InvalidBatchEntryId", "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at most 80 letters long.")
		}
		if seen[one.ID] {
			return nil, apiErrorf("BatchEntryIdsNotDistinct", "Id %s repeated.", one.ID)
		}
		seen[one.ID] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := batchAnswer{action: call.action, Successful: []batchDone{}, Failed: []batchFailed{}}
	for _, one := range in.Entries {
		if err := each(one); err != nil {
			out.Failed = append(out.Failed, batchFailed{ID: one.ID, SenderFault: true, Code: err.code, Message: err.message})
		} else {
			out.Successful = append(out.Successful, batchDone{ID: one.ID})
		}
	}
	return out, nil
}

// formIndex is the number in the name of a member of a list in a form.
var formIndex = regexp.MustCompile(`^([A-Za-z]+)\.(\d+)(?:\.([A-Za-z]+))?$`)

// readSQSForm reads a question of the query protocol.
func readSQSForm(form url.Values) (sqsQuestion, *apiError) {
	asked := map[string]any{}
	lists := map[string]map[int]map[string]any{}
	for name, values := range form {
		found := formIndex.FindStringSubmatch(name)
		if found == nil {
			asked[name] = formValue(name, values[0])
			continue
		}
		n, err := strconv.Atoi(found[2])
		if err != nil {
			return sqsQuestion{}, apiErrorf("MalformedQueryString", "%s", name)
		}
		if lists[found[1]] == nil {
			lists[found[1]] = map[int]map[string]any{}
		}
		if lists[found[1]][n] == nil {
			lists[found[1]][n] = map[string]any{}
		}
		lists[found[1]][n][found[3]] = formValue(found[3], values[0])
	}
	for name, list := range lists {
		var several []any
		pairs := map[string]any{}
		for _, n := range slices.Sorted(maps.Keys(list)) {
			if one, ok := list[n][""]; ok {
				several = append(several, one)
			} else {
				several = append(several, list[n])
				pairs[fmt.Sprint(list[n]["Name"])] = list[n]["Value"]
			}
		}
		switch name {
		case "AttributeName", "MessageSystemAttributeName":
			asked[name+"s"] = several
		case "Attribute":
			asked["Attributes"] = pairs
		case "DeleteMessageBatchRequestEntry", "ChangeMessageVisibilityBatchRequestEntry":
			asked["Entries"] = several
		}
	}
	text, err := json.Marshal(asked)
	var in sqsQuestion
	if err == nil {
		err = json.Unmarshal(text, &in)
	}
	if err != nil {
		return in, apiErrorf("MalformedInput", "%v", err)
	}
	return in, nil
}

// formValue is a value of a form as JSON has it.
func formValue(name, text string) any {
	switch name {
	case "MaxNumberOfMessages", "VisibilityTimeout", "WaitTimeSeconds", "DelaySeconds":
		if n, err := strconv.Atoi(text); err == nil {
			return n
		}
	}
	return text
}
