package proxy

import (
	"strconv"
	"time"
	"unicode/utf8"
)

// LineFormat is the form of an access log's lines.
type LineFormat string

// The formats of an access log.
const (
	LinesJSON   LineFormat = "json"
	LinesLogfmt LineFormat = "logfmt"
)

// maxLine is more than the longest line: each byte of the texts may become six.
const maxLine = 6*(keptMethod+keptHost+keptPath+keptRoute) + 4096

// lineTime is RFC 3339 with milliseconds.
const lineTime = "2006-01-02T15:04:05.000Z07:00"

// appendLine appends the line of a record. What is empty is left out; times are in
// milliseconds.
func appendLine(dst []byte, r *Record, format LineFormat) []byte {
	w := lineWriter{dst: dst, json: format == LinesJSON, start: len(dst)}
	w.time("time", r.Time)
	w.text("method", r.Method)
	w.text("host", r.Host)
	w.text("path", r.Path)
	w.number("status", int64(r.Status))
	w.text("error", r.Error)
	w.text("service", r.Service)
	w.text("version", r.Version)
	w.text("instance", r.Instance)
	w.text("upstream", r.Upstream)
	w.text("route", r.Route)
	w.text("by", r.By.String())
	w.text("fallback", r.Fallback.String())
	w.number("revision", int64(r.Revision)) //nolint:gosec // counted up from 1
	w.number("bytes_in", r.BytesIn)
	w.number("bytes_out", r.BytesOut)
	if r.Held > 0 {
		w.milliseconds("held_ms", r.Held)
	}
	w.milliseconds("first_byte_ms", r.FirstByte)
	w.milliseconds("duration_ms", r.Duration)
	if r.Peer.IsValid() {
		w.key("peer")
		w.quote(true)
		w.dst = r.Peer.AppendTo(w.dst)
		w.quote(true)
	}
	w.text("caller", r.Caller)
	w.text("lost", r.Lost)
	if r.TraceID != (TraceID{}) {
		w.key("trace")
		w.quote(false)
		for _, b := range r.TraceID {
			w.dst = append(w.dst, hexDigits[b>>4], hexDigits[b&15])
		}
		w.quote(false)
	}
	return w.end()
}

const hexDigits = "0123456789abcdef"

// lineWriter writes one line, as JSON or as logfmt.
type lineWriter struct {
	dst   []byte
	json  bool
	start int
}

func (w *lineWriter) key(name string) {
	switch {
	case w.json && len(w.dst) == w.start:
		w.dst = append(w.dst, '{')
	case w.json:
		w.dst = append(w.dst, ',')
	case len(w.dst) > w.start:
		w.dst = append(w.dst, ' ')
	}
	if w.json {
		w.dst = append(append(append(w.dst, '"'), name...), '"', ':')
	} else {
		w.dst = append(append(w.dst, name...), '=')
	}
}

func (w *lineWriter) end() []byte {
	if w.json {
		w.dst = append(w.dst, '}')
	}
	return append(w.dst, '\n')
}

// quote writes a quote around a value that has nothing to escape, where the format wants it.
func (w *lineWriter) quote(always bool) {
	if w.json || always {
		w.dst = append(w.dst, '"')
	}
}

func (w *lineWriter) text(name, value string) {
	if value == "" {
		return
	}
	w.key(name)
	if !w.json && isPlain(value) {
		w.dst = append(w.dst, value...)
		return
	}
	w.dst = appendQuoted(w.dst, value)
}

func (w *lineWriter) number(name string, n int64) {
	w.key(name)
	w.dst = strconv.AppendInt(w.dst, n, 10)
}

func (w *lineWriter) milliseconds(name string, d time.Duration) {
	w.key(name)
	whole, rest := d.Microseconds()/1000, d.Microseconds()%1000
	w.dst = strconv.AppendInt(w.dst, whole, 10)
	for digit := int64(100); rest > 0; digit /= 10 {
		if digit == 100 {
			w.dst = append(w.dst, '.')
		}
		w.dst = append(w.dst, hexDigits[rest/digit])
		rest %= digit
	}
}

func (w *lineWriter) time(name string, at time.Time) {
	w.key(name)
	w.quote(false)
	w.dst = at.UTC().AppendFormat(w.dst, lineTime)
	w.quote(false)
}

// isPlain says whether logfmt takes a value without quotes.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '=' || c == '"' || c == '\\' {
			return false
		}
	}
	return s != ""
}

// appendQuoted appends a JSON string, which is what readers of logfmt take for a quoted
// value too. What is not UTF-8 becomes U+FFFD; control characters are escaped, those above
// ASCII too, so that a line is one line for everybody and moves no cursor.
func appendQuoted(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			switch {
			case c == '"' || c == '\\':
				dst = append(dst, '\\', c)
			case c < ' ' || c == 0x7f:
				dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			default:
				dst = append(dst, c)
			}
			i++
			continue
		}
		c, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case c == utf8.RuneError && size == 1:
			dst = append(dst, `\ufffd`...)
		case c < 0xa0 || c == '\u2028' || c == '\u2029':
			dst = append(dst, '\\', 'u', hexDigits[c>>12], hexDigits[c>>8&15], hexDigits[c>>4&15], hexDigits[c&15])
		default:
			dst = append(dst, s[i:i+size]...)
		}
		i += size
	}
	return append(dst, '"')
}
