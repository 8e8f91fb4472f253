package ecstest

import (
	"encoding/xml"
	"net/http"
)

// stsError and ec2Error are errors of the two query protocols.
type stsError struct {
	XMLName xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ ErrorResponse"`
	Type    string   `xml:"Error>Type"`
	Code    string   `xml:"Error>Code"`
	Message string   `xml:"Error>Message"`
	Request string   `xml:"RequestId"`
}

type ec2Error struct {
	XMLName xml.Name `xml:"Response"`
	Code    string   `xml:"Errors>Error>Code"`
	Message string   `xml:"Errors>Error>Message"`
	Request string   `xml:"RequestID"`
}

// writeQuery writes an answer of STS or EC2.
func writeQuery(w http.ResponseWriter, call *request, out any, failed *apiError) {
	status := http.StatusOK
	if failed != nil {
		if status = failed.status; status == 0 {
			status = http.StatusBadRequest
		}
		out = stsError{Type: "Sender", Code: failed.code, Message: failed.message, Request: newID()}
		if call.service == "ec2" {
			out = ec2Error{Code: failed.code, Message: failed.message, Request: newID()}
		}
	}
	text, err := xml.Marshal(out)
	if err != nil {
		status, text = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.WriteHeader(status)
	_, _ = w.Write(text)
}
