package event

import (
	"bytes"
	"encoding/json"
	"strings"
)

// Lookup returns the text of the member at a dotted path of e as it is
// delivered in schema s: strings as they are, numbers and booleans as their
// JSON text. It returns false where there is no such member or it is null, an
// object or an array. Names at the top are matched in any case; within data a
// segment is matched exactly, else in any case.
func (s Schema) Lookup(e *Event, path string) (string, bool) {
	top, rest, nested := strings.Cut(path, ".")
	if strings.EqualFold(top, "data") {
		return scalar(e.Data, rest, nested)
	}
	if nested {
		return "", false
	}
	switch strings.ToLower(top) {
	case "id":
		return e.ID, true
	case "subject":
		return e.Subject, e.Subject != "" || s == EventGrid
	}
	if s == CloudEvents {
		switch strings.ToLower(top) {
		case "source":
			return e.Source, true
		case "type":
			return e.Type, true
		case "time":
			return FormatTime(e.Time), true
		case "specversion":
			return "1.0", true
		}
		return "", false
	}
	switch strings.ToLower(top) {
	case "topic":
		return e.Source, true
	case "eventtype":
		return e.Type, true
	case "eventtime":
		return FormatTime(e.Time), true
	case "dataversion":
		return e.DataVersion, true
	case "metadataversion":
		return "1", true
	}
	return "", false
}

func scalar(data json.RawMessage, path string, nested bool) (string, bool) {
	for nested {
		var seg string
		seg, path, nested = strings.Cut(path, ".")
		var object map[string]json.RawMessage
		if json.Unmarshal(data, &object) != nil {
			return "", false
		}
		next, ok := object[seg]
		if !ok {
			next, ok = anyCase(object, seg)
		}
		if !ok {
			return "", false
		}
		data = next
	}
	data = bytes.TrimSpace(data)
	if len(data) == 0 {
		return "", false
	}
	switch data[0] {
	case '"':
		var text string
		if json.Unmarshal(data, &text) != nil {
			return "", false
		}
		return text, true
	case '{', '[', 'n':
		return "", false
	}
	return string(data), true
}

// anyCase finds the member whose name equals seg but for case; of several the
// first in byte order, so that the answer never varies.
func anyCase(object map[string]json.RawMessage, seg string) (json.RawMessage, bool) {
	best, found := "", false
	for name := range object {
		if strings.EqualFold(name, seg) && (!found || name < best) {
			best, found = name, true
		}
	}
	return object[best], found
}
