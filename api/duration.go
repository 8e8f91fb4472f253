package api

import (
	"encoding/json"
	"fmt"
	"time"
)

// Duration is a span of time, written as Go writes it ("1m30s") in JSON and YAML.
type Duration time.Duration

// String returns d as Go writes a duration, for example "1m30s".
func (d Duration) String() string { return time.Duration(d).String() }

// Or returns d, or fallback where d is zero.
func (d Duration) Or(fallback time.Duration) time.Duration {
	if d == 0 {
		return fallback
	}
	return time.Duration(d)
}

// MarshalText writes d as [Duration.String] does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what [time.ParseDuration] reads. A negative duration is an error.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 500ms, 30s or 2m", text)
	}
	if v < 0 {
		return fmt.Errorf("%q is negative", text)
	}
	*d = Duration(v)
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
