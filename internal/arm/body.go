package arm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"slices"
	"strings"

	"rollcall/internal/fault"
	"rollcall/internal/filter"
)

// body reads the request's body, which must be one JSON value if it is there
// at all. Its size was bounded before.
func (q *request) body() (json.RawMessage, error) {
	if enc := q.r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return nil, fault.New(fault.UnsupportedMedia, "Content-Encoding %.40q is not supported; send the body as it is.", enc)
	}
	data, err := io.ReadAll(q.r.Body)
	if err != nil {
		return nil, fmt.Errorf("read the body: %w", err)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil
	}
	if ct := q.r.Header.Get("Content-Type"); ct != "" && !isJSON(ct) {
		return nil, fault.New(fault.UnsupportedMedia, "Content-Type %.100q is not supported; application/json is.", ct)
	}
	if !json.Valid(data) {
		return nil, fault.New(fault.InvalidContent, "The body is not one value of valid JSON.")
	}
	if path, twice := duplicate(data); twice {
		return nil, fault.New(fault.InvalidContent, "The member '%.200s' is there twice.", path)
	}
	return data, nil
}

// duplicate looks for an object of valid JSON with two members of one name, of
// which readers would take one or the other, and returns the path of the second.
func duplicate(data []byte) (path string, twice bool) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var open []jsonLevel
	for {
		tok, err := dec.Token()
		if err != nil {
			return "", false // the end: it is valid
		}
		n := len(open)
		switch d, delim := tok.(json.Delim); {
		case delim && d == '{':
			open = append(open, jsonLevel{seen: make(map[string]bool)})
			continue
		case delim && d == '[':
			open = append(open, jsonLevel{})
			continue
		case delim:
			open = open[:n-1]
		case n > 0 && open[n-1].seen != nil && !open[n-1].named:
			l := &open[n-1]
			l.name, l.named = tok.(string), true
			if l.seen[l.name] {
				return jsonPath(open), true
			}
			l.seen[l.name] = true
			continue
		}
		// A value has ended: in an object a name comes next.
		if n = len(open); n > 0 {
			open[n-1].named = false
		}
	}
}

// jsonLevel is an object or a list that duplicate is in.
type jsonLevel struct {
	seen  map[string]bool // names so far; nil: a list
	name  string          // the newest
	named bool            // its value comes next, or is being read
}

// jsonPath returns the path of the newest member. It is made when it is needed:
// that of each level would take the square of what a body does.
func jsonPath(open []jsonLevel) string {
	var path strings.Builder
	for _, l := range open {
		if l.seen == nil {
			path.WriteString("[]")
			continue
		}
		if path.Len() > 0 {
			path.WriteByte('.')
		}
		path.WriteString(l.name)
	}
	return path.String()
}

// isJSON reports whether a media type is that of JSON.
func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (media == "application/json" || media == "text/json" || strings.HasSuffix(media, "+json"))
}

// needBody is body for requests that are nothing without one.
func (q *request) needBody() (json.RawMessage, error) {
	data, err := q.body()
	if err == nil && data == nil {
		err = fault.New(fault.InvalidContent, "A body of JSON is required.")
	}
	return data, err
}

// noBody refuses a body that says anything.
func (q *request) noBody() error {
	data, err := q.body()
	if err != nil || data == nil {
		return err
	}
	var bad fault.List
	newObject("", data, &bad).finish()
	return bad.Err()
}

// envelope takes the members around properties off a resource's body. Those
// that the server says, and a body may repeat, are passed over.
func envelope(data json.RawMessage) (properties json.RawMessage, err error) {
	var bad fault.List
	o := newObject("", data, &bad)
	properties, _ = o.take("properties")
	for _, name := range []string{"id", "name", "type", "systemData", "etag", "provisioningState"} {
		o.take(name)
	}
	o.finish()
	return properties, bad.Err()
}

// object reads a JSON object strictly: what nobody took is a mistake.
type object struct {
	path    string // "" at the top
	members map[string]json.RawMessage
	taken   map[string]bool // folded names
	bad     *fault.List
}

// newObject reads an object. Null and nothing are an empty one.
func newObject(path string, data []byte, bad *fault.List) *object {
	o := &object{path: path, taken: make(map[string]bool), bad: bad}
	if len(data) == 0 || isNull(data) {
		return o
	}
	if err := json.Unmarshal(data, &o.members); err != nil {
		o.members = nil
		if path == "" {
			bad.Add(fault.New(fault.InvalidContent, "The body is not a JSON object."))
		} else {
			bad.Add(fault.At(path, "A JSON object is expected."))
		}
	}
	return o
}

// at is the path of a member.
func (o *object) at(name string) string {
	if o.path == "" {
		return name
	}
	return o.path + "." + name
}

// take removes a member, whose name matches exactly or else in any case.
func (o *object) take(name string) (json.RawMessage, bool) {
	if raw, ok := o.members[name]; ok {
		delete(o.members, name)
		o.taken[filter.Fold(name)] = true
		return raw, true
	}
	for _, have := range slices.Sorted(maps.Keys(o.members)) {
		if strings.EqualFold(have, name) {
			raw := o.members[have]
			delete(o.members, have)
			o.taken[filter.Fold(name)] = true
			return raw, true
		}
	}
	return nil, false
}

// into decodes a member if it is there; null leaves v as it is.
func (o *object) into(name string, v any, what string) {
	raw, ok := o.take(name)
	if !ok {
		return
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		o.bad.Add(fault.At(o.at(name), "%s is expected.", what))
	}
}

// refuse reports a member that names something we do not have.
func (o *object) refuse(name, why string) {
	if raw, ok := o.take(name); ok && !isNull(raw) {
		o.bad.Add(fault.At(o.at(name), "%s", why))
	}
}

// finish refuses what is left.
func (o *object) finish() {
	for _, name := range slices.Sorted(maps.Keys(o.members)) {
		if o.taken[filter.Fold(name)] {
			o.bad.Add(fault.At(o.at(name), "This member is there twice: names are taken in any case."))
			continue
		}
		o.bad.Add(fault.At(o.at(name), "This member is unknown."))
	}
}

func isNull(raw []byte) bool { return string(bytes.TrimSpace(raw)) == "null" }
