package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// Services returns all services, ordered by the bytes of their names.
func (db *DB) Services(ctx context.Context) ([]api.Service, error) {
	services, err := list(ctx, db, func(rows *sql.Rows) (api.Service, error) {
		name, s, err := scanNamed[api.Service](rows)
		s.Name = name
		return s, err
	}, `SELECT name, spec FROM services ORDER BY name`)
	return services, db.explain("list services", err)
}

// PutService inserts s, or replaces the service of its name.
func (db *DB) PutService(ctx context.Context, s api.Service) error {
	action := "store service " + s.Name
	spec, err := encode(s)
	if err != nil {
		return db.explain(action, err)
	}
	return db.explain(action, db.exec(ctx, `
		INSERT INTO services (name, spec) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET spec = excluded.spec`, s.Name, spec))
}

// DeleteService deletes a service and its versions. It returns
// [control.ErrNotStored] for an unknown one.
func (db *DB) DeleteService(ctx context.Context, name string) error {
	return db.explain("delete service "+name, db.inTx(ctx, func(tx *sql.Tx) error {
		if err := deleted(tx.ExecContext(ctx, `DELETE FROM services WHERE name = $1`, name)); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM versions WHERE service = $1`, name)
		return err
	}))
}

// Versions returns all versions, ordered by the bytes of service and name.
func (db *DB) Versions(ctx context.Context) ([]control.VersionRecord, error) {
	versions, err := list(ctx, db, func(rows *sql.Rows) (control.VersionRecord, error) {
		var key control.Key
		var spec string
		if err := rows.Scan(&key.Service, &key.Version, &spec); err != nil {
			return control.VersionRecord{}, err
		}
		r, err := decode[control.VersionRecord](spec)
		r.Key = key
		return r, err
	}, `SELECT service, version, spec FROM versions ORDER BY service, version`)
	return versions, db.explain("list versions", err)
}

// Version returns the record of key, or [control.ErrNotStored].
func (db *DB) Version(ctx context.Context, key control.Key) (*control.VersionRecord, error) {
	ctx, cancel := db.engine.bound(ctx)
	defer cancel()
	r, err := version(ctx, db.read, key)
	if err == nil && r == nil {
		return nil, control.ErrNotStored
	}
	return r, db.explain("find version "+key.String(), endOf(ctx, err))
}

// UpdateVersion changes one record in one transaction, see [control.Store].
//
// The transaction holds a lock from its start, so edit sees the newest record and no other
// write of it comes in between. With SQLite that is the lock of all writes. Therefore edit is
// quick, and does not write to the store: that would wait for itself.
func (db *DB) UpdateVersion(
	ctx context.Context, key control.Key, edit func(*control.VersionRecord) (*control.VersionRecord, error),
) error {
	var refused error // by edit; goes to the caller as it is
	err := db.inTx(ctx, func(tx *sql.Tx) error {
		if err := db.engine.lockVersion(ctx, tx, key); err != nil {
			return err
		}
		old, err := version(ctx, tx, key)
		if err != nil {
			return err
		}
		existed := old != nil
		var changed *control.VersionRecord
		if changed, refused = edit(old); refused != nil {
			return refused
		}
		if changed == nil {
			if !existed {
				return nil
			}
			_, err := tx.ExecContext(ctx, `DELETE FROM versions WHERE service = $1 AND version = $2`, key.Service, key.Version)
			return err
		}
		return putVersion(ctx, tx, key, *changed)
	})
	if refused != nil {
		return refused
	}
	return db.explain("store version "+key.String(), err)
}

// Routes returns all named routes, ordered by the bytes of their names.
func (db *DB) Routes(ctx context.Context) ([]api.NamedRoute, error) {
	routes, err := list(ctx, db, func(rows *sql.Rows) (api.NamedRoute, error) {
		name, r, err := scanNamed[api.NamedRoute](rows)
		r.Name = name
		return r, err
	}, `SELECT name, spec FROM routes ORDER BY name`)
	return routes, db.explain("list routes", err)
}

// PutRoute inserts r, or replaces the route of its name.
func (db *DB) PutRoute(ctx context.Context, r api.NamedRoute) error {
	action := "store route " + r.Name
	spec, err := encode(r)
	if err != nil {
		return db.explain(action, err)
	}
	return db.explain(action, db.exec(ctx, `
		INSERT INTO routes (name, spec) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET spec = excluded.spec`, r.Name, spec))
}

// DeleteRoute deletes a named route. It returns [control.ErrNotStored] for an unknown one.
func (db *DB) DeleteRoute(ctx context.Context, name string) error {
	return db.explain("delete route "+name, db.inTx(ctx, func(tx *sql.Tx) error {
		return deleted(tx.ExecContext(ctx, `DELETE FROM routes WHERE name = $1`, name))
	}))
}

// rowQuerier is a transaction or a pool.
type rowQuerier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// version returns the record of key, or nil where there is none.
func version(ctx context.Context, on rowQuerier, key control.Key) (*control.VersionRecord, error) {
	var spec string
	err := on.QueryRowContext(ctx, `SELECT spec FROM versions WHERE service = $1 AND version = $2`,
		key.Service, key.Version).Scan(&spec)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r, err := decode[control.VersionRecord](spec)
	r.Key = key
	return &r, err
}

func putVersion(ctx context.Context, tx *sql.Tx, key control.Key, r control.VersionRecord) error {
	if r.Key != key {
		return fmt.Errorf("the changed record is of %q", r.Key)
	}
	spec, err := encode(r)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO versions (service, version, spec) VALUES ($1, $2, $3)
		ON CONFLICT (service, version) DO UPDATE SET spec = excluded.spec`, key.Service, key.Version, spec)
	return err
}

// scanNamed reads a row of name and spec.
func scanNamed[T any](rows *sql.Rows) (string, T, error) {
	var name, spec string
	if err := rows.Scan(&name, &spec); err != nil {
		var none T
		return "", none, err
	}
	v, err := decode[T](spec)
	return name, v, err
}
