package event

import "strings"

// Schema is a form in which events are delivered. The zero value is none.
type Schema uint8

// The delivery schemas, in the numbers that are stored.
const (
	EventGrid   Schema = 1 // Event Grid event schema, always an array
	CloudEvents Schema = 2 // CloudEvents 1.0, JSON event format
)

// String returns the name that resources use.
func (s Schema) String() string {
	switch s {
	case EventGrid:
		return "EventGridSchema"
	case CloudEvents:
		return "CloudEventSchemaV1_0"
	}
	return ""
}

// ParseSchema reads what String returns, in any case.
func ParseSchema(name string) (Schema, bool) {
	for _, s := range []Schema{EventGrid, CloudEvents} {
		if strings.EqualFold(name, s.String()) {
			return s, true
		}
	}
	return 0, false
}

// ContentType returns the media type of a body of this schema. Batch matters
// to CloudEvents only: one object or an array of them.
func (s Schema) ContentType(batch bool) string {
	switch {
	case s == CloudEvents && batch:
		return "application/cloudevents-batch+json; charset=utf-8"
	case s == CloudEvents:
		return "application/cloudevents+json; charset=utf-8"
	}
	return "application/json; charset=utf-8"
}

// Append appends e as one object of schema s.
func (s Schema) Append(dst []byte, e *Event) []byte {
	if s == CloudEvents {
		return e.AppendCloudEvent(dst)
	}
	return e.AppendEventGrid(dst)
}

// AppendBody appends the body of one request that delivers events: an array in
// the Event Grid schema; in CloudEvents an array when batch is set and
// otherwise the first event alone, as one object.
func (s Schema) AppendBody(dst []byte, events []*Event, batch bool) []byte {
	if s == CloudEvents && !batch {
		if len(events) == 0 {
			return dst
		}
		return events[0].AppendCloudEvent(dst)
	}
	dst = append(dst, '[')
	for i, e := range events {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = s.Append(dst, e)
	}
	return append(dst, ']')
}
