package grid

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"rollcall/internal/fault"
	"rollcall/internal/filter"
)

// object reads a JSON object strictly: what nobody took is a mistake.
type object struct {
	path    string
	members map[string]json.RawMessage
	taken   map[string]bool // folded names
	bad     *fault.List
}

// newObject reads an object. Null and nothing are an empty one.
func newObject(path string, data []byte, bad *fault.List) *object {
	o := &object{path: path, taken: make(map[string]bool), bad: bad}
	if len(data) == 0 || null(data) {
		return o
	}
	if err := json.Unmarshal(data, &o.members); err != nil {
		o.members = nil
		bad.Add(fault.At(path, "A JSON object is expected."))
	}
	return o
}

// take removes a member, whose name matches exactly or else in any case.
func (o *object) take(name string) (json.RawMessage, bool) {
	if raw, ok := o.members[name]; ok {
		delete(o.members, name)
		o.taken[filter.Fold(name)] = true
		return raw, true
	}
	for _, have := range sortedNames(o.members) {
		if strings.EqualFold(have, name) {
			raw := o.members[have]
			delete(o.members, have)
			o.taken[filter.Fold(name)] = true
			return raw, true
		}
	}
	return nil, false
}

// readOnly passes over members that only replies have.
func (o *object) readOnly(names ...string) {
	for _, name := range names {
		o.take(name)
	}
}

// absent refuses a member that names a feature we do not have.
func (o *object) absent(name, why string) {
	if raw, ok := o.take(name); ok && !null(raw) {
		o.bad.Add(fault.At(o.path+"."+name, "%s", why))
	}
}

// into decodes a member; null leaves v as it is.
func (o *object) into(name string, raw json.RawMessage, v any, what string) bool {
	if err := json.Unmarshal(raw, v); err != nil {
		o.bad.Add(fault.At(o.path+"."+name, "%s is expected.", what))
		return false
	}
	return true
}

// text takes a string; absent and null are empty.
func (o *object) text(name string) string {
	var s string
	if raw, ok := o.take(name); ok {
		o.into(name, raw, &s, "A string")
	}
	return s
}

// count takes an integer from lo to hi; absent and null are 0.
func (o *object) count(name string, lo, hi int) int {
	raw, ok := o.take(name)
	if !ok || null(raw) {
		return 0
	}
	var n int
	if !o.into(name, raw, &n, "An integer") {
		return 0
	}
	if n < lo || n > hi {
		o.bad.Add(fault.At(o.path+"."+name, "%d is not between %d and %d.", n, lo, hi))
		return 0
	}
	return n
}

// finish refuses what is left.
func (o *object) finish() {
	for _, name := range sortedNames(o.members) {
		if o.taken[filter.Fold(name)] {
			o.bad.Add(fault.At(o.path+"."+name, "This member is there twice: names are taken in any case."))
			continue
		}
		o.bad.Add(fault.At(o.path+"."+name, "This member is unknown."))
	}
}

func null(raw []byte) bool { return string(bytes.TrimSpace(raw)) == "null" }

func indexed(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// names reports which of some members are there.
func (o *object) names(members ...string) map[string]bool {
	named := make(map[string]bool, len(members))
	for have := range o.members {
		for _, m := range members {
			if strings.EqualFold(have, m) {
				named[m] = true
			}
		}
	}
	return named
}
