package ecstest

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"net/http"
)

// The query protocols have forms as questions and XML as answers. STS and EC2 have no other; SQS has it for
// clients from before 2023, such as Debian's AWS CLI.
// https://smithy.io/2.0/aws/protocols/aws-query-protocol.html,
// https://smithy.io/2.0/aws/protocols/aws-ec2-query-protocol.html.

// writeQuery writes an answer of a query protocol. out has its XML names in its tags; nil is an answer without
// content.
func writeQuery(w http.ResponseWriter, call *request, out any, failed *apiError) {
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	id := newID()
	w.Header().Set("X-Amzn-Requestid", id)
	status := http.StatusOK
	var text []byte
	var err error
	if failed != nil {
		failed = queryError(call.service, failed)
		status = failed.status
		text, err = queryFailure(call.service, id, failed)
	} else {
		text, err = querySuccess(call, id, out)
	}
	if err != nil { // the fake itself is wrong
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(status)
	_, _ = w.Write(append([]byte(xml.Header), text...)) //nolint:gosec // XML, which no browser reads
}

// namespaces of the answers.
const (
	stsSpace = "https://sts.amazonaws.com/doc/2011-06-15/"
	ec2Space = "http://ec2.amazonaws.com/doc/2016-11-15/"
	sqsSpace = "http://queue.amazonaws.com/doc/2012-11-05/"
)

func querySuccess(call *request, id string, out any) ([]byte, error) {
	space := map[string]string{"sts": stsSpace, "ec2": ec2Space, "sqs": sqsSpace}[call.service]
	outer := xml.StartElement{Name: xml.Name{Local: call.action + "Response"}, Attr: []xml.Attr{{Name: xml.Name{Local: "xmlns"}, Value: space}}}
	var text bytes.Buffer
	e := xml.NewEncoder(&text)
	if err := e.EncodeToken(outer); err != nil {
		return nil, err
	}
	if call.service == "ec2" {
		if err := e.EncodeElement(id, named("requestId")); err != nil {
			return nil, err
		}
		if fields, ok := out.(ec2Answer); ok { // EC2 has its results beside the id
			if err := e.EncodeElement(fields.items(), named(fields.set())); err != nil {
				return nil, err
			}
		}
	} else {
		if out != nil {
			if err := e.EncodeElement(out, named(call.action+"Result")); err != nil {
				return nil, err
			}
		}
		if err := e.EncodeElement(struct {
			ID string `xml:"RequestId"`
		}{id}, named("ResponseMetadata")); err != nil {
			return nil, err
		}
	}
	if err := e.EncodeToken(outer.End()); err != nil {
		return nil, err
	}
	err := e.Close() // which writes the rest
	return text.Bytes(), err
}

func named(name string) xml.StartElement { return xml.StartElement{Name: xml.Name{Local: name}} }

// queryError is an error by the names that it has in a query protocol.
func queryError(service string, e *apiError) *apiError {
	out := *e
	if out.status == 0 {
		out.status = http.StatusBadRequest
	}
	switch e.code {
	case "UnrecognizedClientException":
		out.code = "InvalidClientTokenId"
		if service == "ec2" {
			out.status, out.code, out.message = http.StatusUnauthorized, "AuthFailure", "AWS was not able to validate the provided access credentials"
		}
	case "ExpiredTokenException":
		out.code = "ExpiredToken"
		if service == "ec2" {
			out.code = "RequestExpired"
		}
	case "MissingAuthenticationTokenException":
		out.code = "MissingAuthenticationToken"
	case "QueueDoesNotExist":
		out.code = "AWS.SimpleQueueService.NonExistentQueue"
	case "EmptyBatchRequest", "TooManyEntriesInBatchRequest", "InvalidBatchEntryId", "BatchEntryIdsNotDistinct", "PurgeQueueInProgress",
		"MessageNotInflight", "UnsupportedOperation":
		out.code = "AWS.SimpleQueueService." + e.code
	case "QueueNameExists":
		out.code = "QueueAlreadyExists"
	case "AccessDeniedException":
		out.status, out.code = http.StatusForbidden, "AccessDenied"
	case throttling:
		out.code = "Throttling"
		if service == "ec2" {
			out.status, out.code, out.message = http.StatusServiceUnavailable, "RequestLimitExceeded", "Request limit exceeded."
		}
	case "UnknownOperationException":
		out.code = "InvalidAction"
	}
	return &out
}

func queryFailure(service, id string, failed *apiError) ([]byte, error) {
	type told struct {
		Type    string `xml:",omitempty"`
		Code    string
		Message string
	}
	if service == "ec2" {
		return xml.Marshal(struct {
			XMLName xml.Name `xml:"Response"`
			Error   told     `xml:"Errors>Error"`
			ID      string   `xml:"RequestID"`
		}{Error: told{Code: failed.code, Message: failed.message}, ID: id})
	}
	side := "Sender"
	if failed.status >= http.StatusInternalServerError {
		side = "Receiver"
	}
	return xml.Marshal(struct {
		XMLName xml.Name `xml:"ErrorResponse"`
		Error   told
		ID      string `xml:"RequestId"`
	}{Error: told{Type: side, Code: failed.code, Message: failed.message}, ID: id})
}

// readJSON reads what a call of a JSON protocol asks for.
func readJSON[T any](call *request) (T, *apiError) {
	var in T
	if len(bytes.TrimSpace(call.body)) == 0 {
		return in, nil
	}
	if err := json.Unmarshal(call.body, &in); err != nil {
		return in, apiErrorf("SerializationException", "%v", err)
	}
	return in, nil
}

// unknownAction is the error for what the fake, or the service, does not have.
func unknownAction(call *request) *apiError {
	return apiErrorf("UnknownOperationException", "the fake of %s has no %s", call.service, call.action)
}
