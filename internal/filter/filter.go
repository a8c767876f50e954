// Package filter decides which events a subscription wants. A Filter is what a
// resource says; Compile turns it into a Matcher once, which then matches often,
// from any number of goroutines, without allocating and without doing I/O.
package filter

import (
	"slices"
	"strings"

	"rollcall/internal/event"
	"rollcall/internal/fault"
)

// Filter is the filter object of an event subscription. The zero value wants
// every event.
type Filter struct {
	// IncludedEventTypes lists the event types wanted, compared in any case.
	// Nil, empty and the single value "All" mean all.
	IncludedEventTypes []string
	// SubjectBeginsWith and SubjectEndsWith must both hold; empty matches.
	// There are no wildcards.
	SubjectBeginsWith string
	SubjectEndsWith   string
	// IsSubjectCaseSensitive governs the two subject members only.
	IsSubjectCaseSensitive bool
}

// Limits of a filter.
const (
	MaxEventTypes = 500  // entries of IncludedEventTypes
	MaxValueBytes = 1024 // length of an event type, prefix or suffix
)

// Validate returns every mistake in f. Known lists the event types that the
// source can emit; nil means that any may occur. Target is the path of the
// filter within the request.
func (f Filter) Validate(target string, known []string) fault.List {
	var bad fault.List
	types := target + ".includedEventTypes"
	if len(f.IncludedEventTypes) > MaxEventTypes {
		bad.Add(fault.At(types, "%d event types are more than %d.", len(f.IncludedEventTypes), MaxEventTypes))
	}
	for _, t := range f.IncludedEventTypes {
		switch {
		case strings.TrimSpace(t) == "":
			bad.Add(fault.At(types, "An event type is empty."))
		case len(t) > MaxValueBytes:
			bad.Add(fault.At(types, "An event type is longer than %d bytes.", MaxValueBytes))
		case f.all() || known == nil:
		case !slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, t) }):
			bad.Add(fault.At(types, "%q is not an event type of this source; it has: %s.", t, strings.Join(known, ", ")))
		}
	}
	if len(f.SubjectBeginsWith) > MaxValueBytes {
		bad.Add(fault.At(target+".subjectBeginsWith", "The text is longer than %d bytes.", MaxValueBytes))
	}
	if len(f.SubjectEndsWith) > MaxValueBytes {
		bad.Add(fault.At(target+".subjectEndsWith", "The text is longer than %d bytes.", MaxValueBytes))
	}
	return bad
}

func (f Filter) all() bool {
	return len(f.IncludedEventTypes) == 0 ||
		len(f.IncludedEventTypes) == 1 && strings.EqualFold(f.IncludedEventTypes[0], "All")
}

// Compile returns the Matcher of f.
func (f Filter) Compile() *Matcher {
	m := &Matcher{begins: f.SubjectBeginsWith, ends: f.SubjectEndsWith, exact: f.IsSubjectCaseSensitive}
	if !m.exact {
		m.begins, m.ends = Fold(m.begins), Fold(m.ends)
	}
	if !f.all() {
		for _, t := range f.IncludedEventTypes {
			m.types = append(m.types, Fold(t))
		}
		slices.Sort(m.types)
		m.types = slices.Compact(m.types)
	}
	return m
}

// Matcher is a compiled Filter. It is immutable.
type Matcher struct {
	types        []string // folded, sorted; nil: all
	begins, ends string   // folded unless exact
	exact        bool
}

// Types returns the folded event types that m wants, in order, or nil if it
// wants all. An index keeps matchers by them. The caller must not change it.
func (m *Matcher) Types() []string { return m.types }

// Match reports whether m wants e.
func (m *Matcher) Match(e *event.Event) bool {
	return m.MatchType(e.Type) && m.MatchSubject(e.Subject)
}

// MatchType reports whether m wants events of type t.
func (m *Matcher) MatchType(t string) bool {
	if m.types == nil {
		return true
	}
	var stack [128]byte
	folded := AppendFold(stack[:0], t)
	_, ok := slices.BinarySearchFunc(m.types, folded, func(have string, want []byte) int {
		return strings.Compare(have, string(want))
	})
	return ok
}

// MatchSubject reports whether m wants events about subject s.
func (m *Matcher) MatchSubject(s string) bool {
	if m.exact {
		return strings.HasPrefix(s, m.begins) && strings.HasSuffix(s, m.ends)
	}
	return hasPrefixFold(s, m.begins) && hasSuffixFold(s, m.ends)
}
