package event

import (
	"bytes"
	"encoding/json"
)

// AppendCloudEvent appends e as one CloudEvents 1.0 JSON object (JSON event
// format, structured), members in the order of the documented samples.
func (e *Event) AppendCloudEvent(dst []byte) []byte {
	dst = append(dst, `{"specversion":"1.0","id":`...)
	dst = AppendString(dst, e.ID)
	dst = append(dst, `,"time":"`...)
	dst = AppendTime(dst, e.Time)
	dst = append(dst, `","type":`...)
	dst = AppendString(dst, e.Type)
	dst = append(dst, `,"source":`...)
	dst = AppendString(dst, e.Source)
	if e.Subject != "" { // CloudEvents 1.0, subject: absent or non-empty
		dst = append(dst, `,"subject":`...)
		dst = AppendString(dst, e.Subject)
	}
	if e.Data != nil {
		dst = append(dst, `,"data":`...)
		dst = append(dst, e.Data...)
	}
	return append(dst, '}')
}

// AppendEventGrid appends e as one object of the Event Grid event schema. The
// schema is always delivered as an array of such objects.
func (e *Event) AppendEventGrid(dst []byte) []byte {
	dst = append(dst, `{"id":`...)
	dst = AppendString(dst, e.ID)
	dst = append(dst, `,"topic":`...)
	dst = AppendString(dst, e.Source)
	dst = append(dst, `,"subject":`...)
	dst = AppendString(dst, e.Subject)
	dst = append(dst, `,"eventType":`...)
	dst = AppendString(dst, e.Type)
	dst = append(dst, `,"eventTime":"`...)
	dst = AppendTime(dst, e.Time)
	dst = append(dst, `","data":`...)
	if e.Data != nil {
		dst = append(dst, e.Data...)
	} else {
		dst = append(dst, "null"...)
	}
	dst = append(dst, `,"dataVersion":`...)
	dst = AppendString(dst, e.DataVersion)
	return append(dst, `,"metadataVersion":"1"}`...)
}

// Marshal is json.Marshal for what leaves the server: &, < and > stay as they
// are, so that a URL can be copied from wherever it is shown.
func Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}
