package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// AddTestRun stores a new run under the next number, which it returns. Of all runs the newest keep stay. It returns
// [control.ErrStored] where the ID is taken.
func (db *DB) AddTestRun(ctx context.Context, r api.TestRun, keep int) (number int64, err error) {
	err = db.inTx(ctx, func(tx *sql.Tx) error {
		var taken int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM test_runs WHERE id = $1`, r.ID).Scan(&taken); err != nil {
			return err
		}
		if taken > 0 {
			return control.ErrStored
		}
		if number, err = next(ctx, tx, "test_run"); err != nil {
			return err
		}
		r.Number = number
		spec, detail, err := encodeRun(r)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO test_runs (id, number, spec, detail) VALUES ($1, $2, $3, $4)`, r.ID, number, spec, detail); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `
			DELETE FROM test_runs WHERE number <= (SELECT number FROM test_runs ORDER BY number DESC LIMIT 1 OFFSET $1)`, max(keep, 1))
		return err
	})
	return number, db.explain("store test run "+r.ID, err)
}

// PutTestRun replaces a run. It returns [control.ErrNotStored] where it is gone.
func (db *DB) PutTestRun(ctx context.Context, r api.TestRun) error {
	return db.explain("store test run "+r.ID, db.inTx(ctx, func(tx *sql.Tx) error {
		spec, detail, err := encodeRun(r)
		if err != nil {
			return err
		}
		return deleted(tx.ExecContext(ctx, `UPDATE test_runs SET spec = $2, detail = $3 WHERE id = $1`, r.ID, spec, detail))
	}))
}

// runDetail is what lists of runs do not have.
type runDetail struct {
	Cases     []api.TestCase   `json:"cases,omitempty"`
	Findings  []api.RunFinding `json:"findings,omitempty"`
	Unreached []api.Endpoint   `json:"unreached,omitempty"`
	Reached   *api.Reached     `json:"reached,omitempty"`
}

func encodeRun(r api.TestRun) (spec, detail string, err error) {
	if detail, err = encode(runDetail{r.Cases, r.Findings, r.Unreached, r.Reached}); err != nil {
		return "", "", err
	}
	r.Cases, r.Findings, r.Unreached, r.Reached = nil, nil, nil, nil
	spec, err = encode(r)
	return spec, detail, err
}

// TestRun returns a run with all that is known of it, or [control.ErrNotStored].
func (db *DB) TestRun(ctx context.Context, id string) (api.TestRun, error) {
	ctx, cancel := db.engine.bound(ctx)
	defer cancel()
	var spec, detail string
	err := db.read.QueryRowContext(ctx, `SELECT spec, detail FROM test_runs WHERE id = $1`, id).Scan(&spec, &detail)
	if errors.Is(err, sql.ErrNoRows) {
		return api.TestRun{}, control.ErrNotStored
	}
	if err != nil {
		return api.TestRun{}, db.explain("find test run "+id, endOf(ctx, err))
	}
	r, err := decode[api.TestRun](spec)
	if err != nil {
		return r, db.explain("find test run "+id, err)
	}
	d, err := decode[runDetail](detail)
	r.Cases, r.Findings, r.Unreached, r.Reached = d.Cases, d.Findings, d.Unreached, d.Reached
	return r, db.explain("find test run "+id, err)
}

// TestRuns returns at most limit runs with a number below before, the newest first, without their details.
func (db *DB) TestRuns(ctx context.Context, before int64, limit int) ([]api.TestRun, error) {
	runs, err := list(ctx, db, scanSpec[api.TestRun], `SELECT spec FROM test_runs WHERE number < $1 ORDER BY number DESC LIMIT $2`, before, limit)
	return runs, db.explain("list test runs", err)
}

// maxTests bounds of how many tests of a suite something is known: names may have numbers in them that never come again.
const maxTests = 20_000

// UpdateTestHistory changes what is known of tests of a suite, all or none: edit gets the record of each, an empty one where
// there is none, and changes it.
func (db *DB) UpdateTestHistory(ctx context.Context, suite string, tests []string, edit func(*api.TestHistory)) error {
	return db.explain("store the history of suite "+suite, db.inTx(ctx, func(tx *sql.Tx) error {
		var known int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM test_history WHERE suite = $1`, suite).Scan(&known); err != nil {
			return err
		}
		for _, test := range tests {
			h := api.TestHistory{Suite: suite, Test: test}
			var spec string
			err := tx.QueryRowContext(ctx, `SELECT spec FROM test_history WHERE suite = $1 AND test = $2`, suite, test).Scan(&spec)
			if err == nil {
				h, err = decode[api.TestHistory](spec)
			}
			switch {
			case errors.Is(err, sql.ErrNoRows):
				if known++; known > maxTests {
					continue
				}
			case err != nil:
				return err
			}
			edit(&h)
			if spec, err = encode(h); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `
				INSERT INTO test_history (suite, test, spec) VALUES ($1, $2, $3)
				ON CONFLICT (suite, test) DO UPDATE SET spec = excluded.spec`, suite, test, spec); err != nil {
				return err
			}
		}
		return nil
	}))
}

// TestHistory returns what is known of the tests of a suite, by the bytes of their names.
func (db *DB) TestHistory(ctx context.Context, suite string) ([]api.TestHistory, error) {
	all, err := list(ctx, db, scanSpec[api.TestHistory], `SELECT spec FROM test_history WHERE suite = $1 ORDER BY test`, suite)
	return all, db.explain("list the history of suite "+suite, err)
}

// RenameSuite gives what is known of a suite another name, unless something is known under that: then it returns
// [control.ErrStored]. A test that is the whole suite is called as it, then and before.
func (db *DB) RenameSuite(ctx context.Context, from, to string) error {
	return db.explain(fmt.Sprintf("rename suite %s to %s", from, to), db.inTx(ctx, func(tx *sql.Tx) error {
		var taken int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM test_history WHERE suite = $1`, to).Scan(&taken); err != nil {
			return err
		}
		if taken > 0 {
			return control.ErrStored
		}
		tests, err := allOf(ctx, tx, `SELECT spec FROM test_history WHERE suite = $1`, from)
		if err != nil {
			return err
		}
		for _, spec := range tests {
			h, err := decode[api.TestHistory](spec)
			if err != nil {
				return err
			}
			test := h.Test
			if h.Suite = to; test == from && len(tests) == 1 {
				h.Test = to
			}
			if spec, err = encode(h); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `UPDATE test_history SET suite = $3, test = $4, spec = $5 WHERE suite = $1 AND test = $2`, from, test, to, h.Test, spec); err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(ctx, `
			UPDATE suite_touches SET suite = $2 WHERE suite = $1 AND service NOT IN (SELECT service FROM suite_touches WHERE suite = $2)`, from, to)
		return err
	}))
}

func allOf(ctx context.Context, tx *sql.Tx, query string, args ...any) ([]string, error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var all []string
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		all = append(all, text)
	}
	return all, rows.Err()
}

// TouchServices notes that a run of a suite reached services.
func (db *DB) TouchServices(ctx context.Context, suite string, services []string, edit func(*api.TouchedByTest)) error {
	return db.explain("store what suite "+suite+" touches", db.inTx(ctx, func(tx *sql.Tx) error {
		for _, service := range services {
			t := api.TouchedByTest{Service: service}
			var spec string
			err := tx.QueryRowContext(ctx, `SELECT spec FROM suite_touches WHERE suite = $1 AND service = $2`, suite, service).Scan(&spec)
			if err == nil {
				t, err = decode[api.TouchedByTest](spec)
			}
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return err
			}
			edit(&t)
			if spec, err = encode(t); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `
				INSERT INTO suite_touches (suite, service, spec) VALUES ($1, $2, $3)
				ON CONFLICT (suite, service) DO UPDATE SET spec = excluded.spec`, suite, service, spec); err != nil {
				return err
			}
		}
		return nil
	}))
}

// Touches returns which services the runs of each suite reached, in the order of their names.
func (db *DB) Touches(ctx context.Context) (map[string][]api.TouchedByTest, error) {
	type row struct {
		suite string
		api.TouchedByTest
	}
	rows, err := list(ctx, db, func(rows *sql.Rows) (row, error) {
		var r row
		var spec string
		if err := rows.Scan(&r.suite, &spec); err != nil {
			return r, err
		}
		t, err := decode[api.TouchedByTest](spec)
		r.TouchedByTest = t
		return r, err
	}, `SELECT suite, spec FROM suite_touches ORDER BY suite, service`)
	out := map[string][]api.TouchedByTest{}
	for _, r := range rows {
		out[r.suite] = append(out[r.suite], r.TouchedByTest)
	}
	return out, db.explain("list what suites touch", err)
}

// PutSuite stores a version of a suite, or replaces it.
func (db *DB) PutSuite(ctx context.Context, s api.Suite) error {
	action := "store suite " + s.Name + "@" + s.Ref
	spec, err := encode(s)
	if err != nil {
		return db.explain(action, err)
	}
	return db.explain(action, db.exec(ctx, `
		INSERT INTO suites (name, ref, spec) VALUES ($1, $2, $3)
		ON CONFLICT (name, ref) DO UPDATE SET spec = excluded.spec`, s.Name, s.Ref, spec))
}

// DeleteSuite deletes a version of a suite. It returns [control.ErrNotStored] for an unknown one.
func (db *DB) DeleteSuite(ctx context.Context, name, ref string) error {
	return db.explain("delete suite "+name+"@"+ref, db.inTx(ctx, func(tx *sql.Tx) error {
		return deleted(tx.ExecContext(ctx, `DELETE FROM suites WHERE name = $1 AND ref = $2`, name, ref))
	}))
}

// Suites returns all versions of all suites, by the bytes of name and ref.
func (db *DB) Suites(ctx context.Context) ([]api.Suite, error) {
	suites, err := list(ctx, db, scanSpec[api.Suite], `SELECT spec FROM suites ORDER BY name, ref`)
	return suites, db.explain("list suites", err)
}

func scanSpec[T any](rows *sql.Rows) (T, error) {
	var spec string
	if err := rows.Scan(&spec); err != nil {
		var none T
		return none, err
	}
	return decode[T](spec)
}
