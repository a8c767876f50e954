// Package event is the envelope that everything in Rollcall is delivered in: a
// CloudEvents 1.0 event, which can be rendered in the Event Grid event schema
// too. It does no I/O.
package event

import (
	"encoding/json"
	"fmt"
	"time"
)

// Event is one event as it was accepted. It is immutable from then on: ID,
// Time and OutputID are the same in every attempt to deliver it.
type Event struct {
	ID      string    // CloudEvents id, unique with Source
	Source  string    // CloudEvents source; Event Grid's topic
	Type    string    // CloudEvents type; Event Grid's eventType
	Subject string    // CloudEvents subject; empty: none
	Time    time.Time // when the fact happened, UTC, to 100 ns

	// DataVersion is Event Grid's dataVersion; CloudEvents has no such member.
	DataVersion string
	// Data is one JSON value, kept as it was accepted. Nil: no data.
	Data json.RawMessage

	OutputID string    // id of the accepted event within Rollcall, a UUID
	Accepted time.Time // when it was committed; time to live counts from it
}

// timeLayout has the seven fraction digits of the documented samples.
const timeLayout = "2006-01-02T15:04:05.0000000Z"

// AppendTime appends t as the documented events print times: RFC 3339 in UTC
// with seven fraction digits and Z.
func AppendTime(dst []byte, t time.Time) []byte {
	return t.UTC().AppendFormat(dst, timeLayout)
}

// FormatTime is AppendTime as a string.
func FormatTime(t time.Time) string { return t.UTC().Format(timeLayout) }

// Time is a time in JSON that leaves: written as AppendTime does, so that texts
// sort as times do, and read as RFC 3339. The zero Time counts as empty.
type Time struct{ time.Time }

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) {
	return append(AppendTime([]byte{'"'}, t.Time), '"'), nil
}

// AppendString appends s as a JSON string. Characters outside ASCII stay as
// they are; invalid UTF-8 becomes U+FFFD.
func AppendString(dst []byte, s string) []byte {
	plain := true
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= 0x80 {
			plain = false
			break
		}
	}
	if plain {
		dst = append(dst, '"')
		dst = append(dst, s...)
		return append(dst, '"')
	}
	q, err := Marshal(s)
	if err != nil { // a string always marshals
		panic(fmt.Sprintf("event: marshal string: %v", err))
	}
	return append(dst, q...)
}
