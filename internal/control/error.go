package control

import (
	"errors"
	"fmt"

	"github.com/layover-dev/layover/api"
)

// Error is an error whose message may be shown to the user.
type Error struct {
	Code    api.Code
	Message string
	Hint    string   // what to do next; may be empty
	Details []string // what it consists of, or what could help, one a line
	Err     error    // the cause, for logs; may be nil
}

// Error returns the message, without the hint.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the code of err, and [api.CodeInternal] for errors that carry none.
func CodeOf(err error) api.Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return api.CodeInternal
}

func invalidf(hint, format string, args ...any) *Error {
	return &Error{Code: api.CodeInvalid, Message: fmt.Sprintf(format, args...), Hint: hint}
}

func notFoundf(hint, format string, args ...any) *Error {
	return &Error{Code: api.CodeNotFound, Message: fmt.Sprintf(format, args...), Hint: hint}
}

func conflictf(hint, format string, args ...any) *Error {
	return &Error{Code: api.CodeConflict, Message: fmt.Sprintf(format, args...), Hint: hint}
}
