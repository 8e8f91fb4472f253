package api

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// Duration is a span of time, written as Go writes it ("1m30s") in JSON and YAML. Days
// are read as well ("3d", "1d12h"), and "never".
type Duration time.Duration

// Never is the duration of what has no end, far longer than anything lasts.
const Never = Duration(100 * 365 * 24 * time.Hour)

// String returns d as Go writes a duration, for example "1m30s".
func (d Duration) String() string {
	if d == Never {
		return "never"
	}
	return time.Duration(d).String()
}

// Or returns d, or fallback where d is zero.
func (d Duration) Or(fallback time.Duration) time.Duration {
	if d == 0 {
		return fallback
	}
	return time.Duration(d)
}

// MarshalText writes d as [Duration.String] does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

var withDays = regexp.MustCompile(`^(\d{1,5})d(.*)$`)

// UnmarshalText reads what [time.ParseDuration] reads, days before it, and "never". A
// negative duration is an error, and one that is longer than Never.
func (d *Duration) UnmarshalText(text []byte) error {
	if string(text) == "never" {
		*d = Never
		return nil
	}
	rest, days := string(text), 0
	if parts := withDays.FindStringSubmatch(rest); parts != nil {
		days, _ = strconv.Atoi(parts[1]) // up to five digits
		if rest = parts[2]; rest == "" {
			rest = "0"
		}
	}
	v, err := time.ParseDuration(rest)
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 500ms, 30s, 2m or 3d", text)
	}
	if v < 0 {
		return fmt.Errorf("%q is negative", text)
	}
	if v > time.Duration(Never) || days > 100*365 {
		return fmt.Errorf("%q is longer than 100 years: write never", text)
	}
	*d = min(Duration(v+time.Duration(days)*24*time.Hour), Never)
	return nil
}

// UnmarshalJSON reads a JSON string as [Duration.UnmarshalText] does.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("%s is not a duration such as \"30s\"", data)
	}
	return d.UnmarshalText([]byte(s))
}
