package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// errNoAnswer says that PostgreSQL took longer than a call may take.
var errNoAnswer = errors.New("no answer within " + callTime.String())

// explain returns err, as a [control.Error] where a person can do something about it. It never has the
// password: no error of the driver has, once the address is read.
func (p *postgres) explain(err error) error {
	if explained(err) && !errors.Is(err, errNoAnswer) {
		return err
	}
	unavailable := func(hint, format string, args ...any) error {
		return &control.Error{Code: api.CodeUnavailable, Message: fmt.Sprintf(format, args...), Hint: hint, Err: err}
	}
	if _, ok := errors.AsType[*specError](err); ok {
		return unavailable("put a backup in its place", "the store %s is damaged: %v", p.name, err)
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case e.Code == "3D000":
			return unavailable("create it with: createdb …, or correct the address", "there is no database %s", p.name)
		case e.Code[:2] == "28":
			return unavailable("check the user, and the password in the address, PGPASSWORD or PGPASSFILE",
				"PostgreSQL refuses the user of %s: %s", p.name, e.Message)
		case e.Code == "42501":
			return unavailable("let that user own the database or the schema",
				"the user of %s may not do that: %s", p.name, e.Message)
		case e.Code == "25006":
			return unavailable("name the primary server, or add ?target_session_attrs=read-write",
				"the database %s is read-only, as a standby is", p.name)
		case e.Code == "53100":
			return unavailable("free some space on its disk, then try again", "the disk of %s is full", p.name)
		case e.Code == "53300":
			return unavailable("raise max_connections, or end other programs that use it",
				"PostgreSQL at %s has no connection left", p.name)
		case e.Code[:2] == "57":
			return unavailable("wait until it is up again; layover goes on by itself", "PostgreSQL at %s is stopping or starting: %s", p.name, e.Message)
		}
		return err
	}
	if _, connecting := errors.AsType[*pgconn.ConnectError](err); connecting || broken(err) {
		return unavailable("check that it runs and can be reached from here; layover goes on by itself when it does",
			"PostgreSQL at %s does not answer", p.name)
	}
	return err
}

// explainOpen is explain for an error of opening the store: unless it is that the
// context ended, it always has a hint.
func (p *postgres) explainOpen(ctx context.Context, err error) error {
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = errNoAnswer
	}
	err = p.explain(endOf(ctx, err))
	if e, ok := errors.AsType[*control.Error](err); ok {
		return e
	}
	if ctx.Err() != nil {
		return fmt.Errorf("open the store %s: %w", p.name, err)
	}
	return &control.Error{
		Code:    api.CodeUnavailable,
		Message: fmt.Sprintf("open the store %s: %v", p.name, err),
		Hint:    "check the address of the database",
		Err:     err,
	}
}

// broken says whether a connection was lost, or gave no answer.
func broken(err error) bool {
	_, network := errors.AsType[net.Error](err)
	return network || errors.Is(err, errNoAnswer) || errors.Is(err, net.ErrClosed) || pgconn.SafeToRetry(err) || unexpectedEnd(err)
}

// postgresInterrupted says whether PostgreSQL gave up a statement because its context ended.
func postgresInterrupted(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code == "57014"
	}
	return pgconn.Timeout(err) || broken(err)
}

// unexpectedEnd says whether the other side closed a connection in the middle.
func unexpectedEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, driver.ErrBadConn)
}
