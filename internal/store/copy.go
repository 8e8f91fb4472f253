package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// An export is JSON lines: a head, a line for each row of each table, and an end with the number of rows
// and the SHA-256 of all bytes before it. It is the same whichever database it came from.
const (
	exportFormat = 1
	maxLine      = 64 << 20 // bytes of a line that is read
	batchRows    = 100      // rows of one statement, at most
	batchBytes   = 1 << 20  // text of one statement, about
)

// Counts says how many rows of each table an export has.
type Counts map[string]int64

// String is "3 services, 12 versions", in the order of the tables, without what nobody asks for.
func (c Counts) String() string {
	var parts []string
	for _, t := range tables() {
		if !slices.Contains([]string{"webhooks", "dead_letters", "counters", "test_runs", "test_history", "suites", "suite_touches", "forge_deliveries"}, t.name) {
			parts = append(parts, fmt.Sprintf("%d %s", c[t.name], t.name))
		}
	}
	return strings.Join(parts, ", ")
}

// table is one that holds what an environment is. What is not in the list is of the database alone.
type table struct {
	name  string
	order string                  // columns
	check func(spec string) error // says whether a record can be read back
}

func tables() []table {
	return []table{
		{"services", "name", readable[api.Service]},
		{"versions", "service, version", readable[control.VersionRecord]},
		{"routes", "name", readable[api.NamedRoute]},
		{"events", "id", readable[api.Event]},
		{"webhooks", "name", nil},
		{"dead_letters", "id", readable[api.DeadLetter]},
		{"test_runs", "number", readable[api.TestRun]},
		{"test_history", "suite, test", readable[api.TestHistory]},
		{"suites", "name, ref", readable[api.Suite]},
		{"suite_touches", "suite, service", readable[api.TouchedByTest]},
		{"forge_deliveries", "number", nil},
		{"counters", "name", nil},
	}
}

func readable[T any](spec string) error {
	_, err := decode[T](spec)
	return err
}

// specColumn holds a record as JSON, which an export shows as it is, not as text.
const specColumn = "spec"

type exportHead struct {
	Format int       `json:"layover_store"`
	Schema int64     `json:"schema"`
	At     time.Time `json:"at"`
}

type exportRow struct {
	Table string                     `json:"table"`
	Row   map[string]json.RawMessage `json:"row"`
}

type exportEnd struct {
	Rows   int64  `json:"rows"`
	SHA256 string `json:"sha256"`
}

// exporter writes lines and counts them.
type exporter struct {
	out  *bufio.Writer
	hash hash.Hash
}

func (e *exporter) line(v any) error {
	var text bytes.Buffer
	enc := json.NewEncoder(&text) // ends a line
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	e.hash.Write(text.Bytes())
	_, err := e.out.Write(text.Bytes())
	return err
}

// export writes what tx sees, which is one moment.
func export(ctx context.Context, tx *sql.Tx, schema int64, w io.Writer) (Counts, error) {
	e := &exporter{out: bufio.NewWriter(w), hash: sha256.New()}
	if err := e.line(exportHead{Format: exportFormat, Schema: schema, At: time.Now().UTC().Truncate(time.Second)}); err != nil {
		return nil, err
	}
	counts, all := Counts{}, int64(0)
	for _, t := range tables() {
		n, err := e.table(ctx, tx, t)
		if err != nil {
			return nil, fmt.Errorf("export %s: %w", t.name, err)
		}
		counts[t.name] = n
		all += n
	}
	if err := e.line(exportEnd{Rows: all, SHA256: hex.EncodeToString(e.hash.Sum(nil))}); err != nil {
		return nil, err
	}
	return counts, e.out.Flush()
}

func (e *exporter) table(ctx context.Context, tx *sql.Tx, t table) (n int64, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT * FROM `+t.name+` ORDER BY `+t.order) //nolint:gosec // of our own list
	if err != nil {
		return 0, err
	}
	defer func() { _ = rows.Close() }() // rows.Err has told it all
	columns, err := rows.Columns()
	if err != nil {
		return 0, err
	}
	values, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	for ; rows.Next(); n++ {
		if err := rows.Scan(into...); err != nil {
			return 0, err
		}
		row := make(map[string]json.RawMessage, len(columns))
		for i, column := range columns {
			if row[column], err = cell(column, values[i]); err != nil {
				return 0, err
			}
		}
		if err := e.line(exportRow{Table: t.name, Row: row}); err != nil {
			return 0, err
		}
	}
	return n, rows.Err()
}

// cell returns a value as JSON.
func cell(column string, value any) (json.RawMessage, error) {
	text, isText := value.(string)
	_, isNumber := value.(int64)
	switch {
	case isText && column == specColumn:
		if !json.Valid([]byte(text)) {
			return nil, &specError{errors.New("it is not JSON")}
		}
		return json.RawMessage(text), nil
	case isText, isNumber, value == nil:
		return json.Marshal(value)
	default:
		return nil, fmt.Errorf("the column %s has a %T, which an export has no form for", column, value)
	}
}

// Import fills the store with what r has, an export. It refuses a store that has anything in it. Where it
// returns an error, nothing was stored.
func (db *DB) Import(ctx context.Context, r io.Reader) (counts Counts, err error) {
	err = db.engine.inTx(ctx, longTx, func(tx *sql.Tx) error {
		if err := db.checkEmpty(ctx, tx); err != nil {
			return err
		}
		i := importer{tx: tx, hash: sha256.New(), counts: Counts{}}
		i.lines = bufio.NewScanner(r)
		i.lines.Buffer(make([]byte, 0, 64<<10), maxLine)
		counts = i.counts
		return i.run(ctx)
	})
	return counts, db.explain("import", err)
}

func (db *DB) checkEmpty(ctx context.Context, tx *sql.Tx) error {
	for _, t := range tables() {
		var filled bool
		err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM `+t.name+`)`).Scan(&filled)
		if err != nil {
			return err
		}
		if filled {
			return conflict("name a new one with --store", "the store %s is not empty: it has %s already", db.path, t.name)
		}
	}
	return nil
}

// importer reads an export into a transaction.
type importer struct {
	tx     *sql.Tx
	lines  *bufio.Scanner
	number int // of the line
	hash   hash.Hash
	counts Counts

	// Rows of one table that wait for their statement.
	into    string
	columns []string
	values  []any
	bytes   int
}

// badExport is an export that cannot be used.
func (i *importer) bad(format string, args ...any) error {
	return &control.Error{
		Code:    api.CodeInvalid,
		Message: fmt.Sprintf("line %d of the export: ", i.number) + fmt.Sprintf(format, args...),
		Hint:    "make a new one with layover store export; nothing was imported",
	}
}

func (i *importer) run(ctx context.Context) error {
	head, err := readLine[exportHead](i, i.next)
	if err != nil {
		return err
	}
	if head.Format == 0 {
		return i.bad("this is not an export of a store")
	}
	if known := newestSchema(); head.Format > exportFormat || head.Schema > known {
		return conflict("use a newer layover", "the export has format %d and schema %d, and this layover knows up to %d and %d",
			head.Format, head.Schema, exportFormat, known)
	}
	known := map[string][]string{}
	for rows := int64(0); ; rows++ {
		sum := hex.EncodeToString(i.hash.Sum(nil))
		line, err := i.next()
		if err != nil {
			return err
		}
		if bytes.HasPrefix(line, []byte(`{"rows":`)) {
			return i.end(ctx, line, rows, sum)
		}
		row, err := readLine[exportRow](i, func() ([]byte, error) { return line, nil })
		if err != nil {
			return err
		}
		if err := i.row(ctx, row, known); err != nil {
			return err
		}
	}
}

// next returns the next line, and adds it to the sum.
func (i *importer) next() ([]byte, error) {
	i.number++
	if !i.lines.Scan() {
		switch err := i.lines.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			return nil, i.bad("it is longer than %d MiB", maxLine>>20)
		case err != nil:
			return nil, fmt.Errorf("read the export: %w", err)
		}
		return nil, i.bad("the export ends before its end: it was cut short")
	}
	i.hash.Write(i.lines.Bytes())
	i.hash.Write([]byte{'\n'})
	return i.lines.Bytes(), nil
}

func readLine[T any](i *importer, next func() ([]byte, error)) (T, error) {
	var v T
	line, err := next()
	if err != nil {
		return v, err
	}
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil || dec.More() {
		return v, i.bad("this is not a line of an export")
	}
	return v, nil
}

// row takes one row. known keeps the columns of the tables that were met.
func (i *importer) row(ctx context.Context, r exportRow, known map[string][]string) error {
	at := slices.IndexFunc(tables(), func(t table) bool { return t.name == r.Table })
	if at < 0 {
		return i.bad("there is no table %q", clip(r.Table))
	}
	t := tables()[at]
	if known[t.name] == nil {
		columns, err := columnsOf(ctx, i.tx, t.name)
		if err != nil {
			return err
		}
		known[t.name] = columns
	}
	var columns []string // in the order of the table, so that the rows of a statement have the same
	var values []any
	for _, column := range known[t.name] {
		raw, ok := r.Row[column]
		if !ok {
			continue // newer than the export
		}
		value, err := i.value(column, raw)
		if err != nil {
			return err
		}
		if text, ok := value.(string); ok && column == specColumn && t.check != nil {
			if err := t.check(text); err != nil {
				return i.bad("%v", err)
			}
		}
		columns, values = append(columns, column), append(values, value)
		i.bytes += len(raw)
	}
	if len(columns) != len(r.Row) || len(columns) == 0 {
		return i.bad("it has columns that %s has not", t.name)
	}
	if i.into != t.name || !slices.Equal(i.columns, columns) || len(i.values) >= batchRows*len(columns) || i.bytes > batchBytes {
		if err := i.flush(ctx); err != nil {
			return err
		}
	}
	i.into, i.columns, i.values = t.name, columns, append(i.values, values...)
	i.counts[t.name]++
	return nil
}

// value reads what cell wrote.
func (i *importer) value(column string, raw json.RawMessage) (any, error) {
	if column == specColumn {
		return string(raw), nil
	}
	if string(raw) == "null" {
		return nil, nil
	}
	if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return n, nil
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return nil, i.bad("%s is neither a text nor a whole number", column)
	}
	return text, nil
}

// flush writes the rows that wait.
func (i *importer) flush(ctx context.Context) error {
	if len(i.values) == 0 {
		return nil
	}
	var query strings.Builder
	query.WriteString(`INSERT INTO ` + i.into + ` (` + strings.Join(i.columns, ", ") + `) VALUES `)
	for n := range i.values {
		switch {
		case n == 0:
			query.WriteString("(")
		case n%len(i.columns) == 0:
			query.WriteString("), (")
		default:
			query.WriteString(", ")
		}
		query.WriteString("$" + strconv.Itoa(n+1))
	}
	query.WriteString(")")
	_, err := i.tx.ExecContext(ctx, query.String(), i.values...)
	i.values, i.bytes = nil, 0
	if err != nil {
		return fmt.Errorf("store rows of %s: %w", i.into, err)
	}
	return nil
}

// end checks that all that was exported was read.
func (i *importer) end(ctx context.Context, line []byte, rows int64, sum string) error {
	end, err := readLine[exportEnd](i, func() ([]byte, error) { return line, nil })
	if err != nil {
		return err
	}
	if end.Rows != rows || end.SHA256 != sum {
		return i.bad("the checksum is not that of the lines above: the export was changed or damaged")
	}
	if i.lines.Scan() {
		i.number++
		return i.bad("there is more behind the end")
	}
	if err := i.lines.Err(); err != nil {
		return fmt.Errorf("read the export: %w", err)
	}
	return i.flush(ctx)
}

// columnsOf returns the columns of a table.
func columnsOf(ctx context.Context, tx *sql.Tx, name string) (_ []string, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT * FROM `+name+` WHERE 1 = 0`) //nolint:gosec // of our own list
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	columns, err := rows.Columns()
	return columns, errors.Join(err, rows.Err())
}

func clip(text string) string {
	if len(text) > 40 {
		return text[:40] + "…"
	}
	return text
}
