package filter

import (
	"strings"
	"testing"
	"unicode/utf8"

	"rollcall/internal/event"
)

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		f             Filter
		kind, subject string
		want          bool
	}{
		{Filter{}, "T", "s", true},
		{Filter{}, "", "", true},
		{Filter{IncludedEventTypes: []string{"All"}}, "T", "s", true},
		{Filter{IncludedEventTypes: []string{"all"}}, "T", "s", true},
		{Filter{IncludedEventTypes: []string{"All", "A"}}, "T", "s", false},
		{Filter{IncludedEventTypes: []string{"A", "Type.B"}}, "type.b", "s", true},
		{Filter{IncludedEventTypes: []string{"A", "Type.B"}}, "type.bb", "s", false},
		{Filter{IncludedEventTypes: []string{"straße"}}, "STRAßE", "s", true},
		{Filter{IncludedEventTypes: []string{strings.Repeat("x", 300)}}, strings.Repeat("X", 300), "s", true},
		{Filter{SubjectBeginsWith: "clients/"}, "T", "Clients/a", true},
		{Filter{SubjectBeginsWith: "clients/", IsSubjectCaseSensitive: true}, "T", "Clients/a", false},
		{Filter{SubjectBeginsWith: "clients/", IsSubjectCaseSensitive: true}, "T", "clients/a", true},
		{Filter{SubjectBeginsWith: "clients/a"}, "T", "clients/", false},
		{Filter{SubjectEndsWith: "/Ä"}, "T", "a/ä", true},
		{Filter{SubjectEndsWith: "/Ä", IsSubjectCaseSensitive: true}, "T", "a/ä", false},
		{Filter{SubjectBeginsWith: "a", SubjectEndsWith: "z"}, "T", "az", true},
		{Filter{SubjectBeginsWith: "a", SubjectEndsWith: "z"}, "T", "ay", false},
		{Filter{SubjectBeginsWith: "a", SubjectEndsWith: "z"}, "T", "bz", false},
		{Filter{SubjectBeginsWith: "*"}, "T", "anything", false},
		{Filter{SubjectBeginsWith: "k"}, "T", "\u212Aelvin", true}, // the Kelvin sign folds to k
		{Filter{SubjectEndsWith: "x"}, "T", "", false},
	} {
		if got := c.f.Compile().Match(&event.Event{Type: c.kind, Subject: c.subject}); got != c.want {
			t.Errorf("%+v on type %q, subject %q: %v, want %v", c.f, c.kind, c.subject, got, c.want)
		}
	}
}

func TestValidate(t *testing.T) {
	known := []string{"A", "B"}
	for _, c := range []struct {
		f     Filter
		known []string
		bad   int
	}{
		{Filter{}, known, 0},
		{Filter{IncludedEventTypes: []string{"All"}}, known, 0},
		{Filter{IncludedEventTypes: []string{"a", "B"}}, known, 0},
		{Filter{IncludedEventTypes: []string{"a", "C", "D"}}, known, 2},
		{Filter{IncludedEventTypes: []string{"C"}}, nil, 0},
		{Filter{IncludedEventTypes: []string{" "}}, nil, 1},
		{Filter{IncludedEventTypes: make([]string, 501)}, nil, 502},
		{Filter{SubjectBeginsWith: strings.Repeat("x", 1025), SubjectEndsWith: strings.Repeat("x", 1025)}, nil, 2},
	} {
		if got := c.f.Validate("f", c.known); len(got) != c.bad {
			t.Errorf("%.80v: %d mistakes, want %d: %v", c.f, len(got), c.bad, got.Err())
		}
	}
}

// Matching agrees with the definition: equal folds.
func FuzzMatch(f *testing.F) {
	f.Add("Straße/K", "straSSe", "k")
	f.Add("", "", "")
	f.Add("ſ", "S", "s")
	f.Fuzz(func(t *testing.T, s, begins, ends string) {
		if !utf8.ValidString(s) || !utf8.ValidString(begins) || !utf8.ValidString(ends) {
			t.Skip() // subjects are valid UTF-8 where they come in
		}
		m := Filter{SubjectBeginsWith: begins, SubjectEndsWith: ends}.Compile()
		want := strings.HasPrefix(Fold(s), Fold(begins)) && strings.HasSuffix(Fold(s), Fold(ends))
		if got := m.MatchSubject(s); got != want {
			t.Errorf("%q begins %q ends %q: %v, want %v", s, begins, ends, got, want)
		}
		if strings.EqualFold(s, begins) != (Fold(s) == Fold(begins)) {
			t.Errorf("Fold disagrees with EqualFold on %q and %q", s, begins)
		}
		if got := (Filter{IncludedEventTypes: []string{begins, "x"}}).Compile().MatchType(s); got != (strings.EqualFold(s, begins) || strings.EqualFold(s, "x")) {
			t.Errorf("type %q in %q: %v", s, begins, got)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	m := Filter{IncludedEventTypes: []string{"Microsoft.EventGrid.MQTTClientSessionConnected", "Microsoft.EventGrid.MQTTClientSessionDisconnected"},
		SubjectBeginsWith: "clients/"}.Compile()
	e := &event.Event{Type: "Microsoft.EventGrid.MQTTClientSessionConnected", Subject: "clients/a/sessions/b"}
	b.ReportAllocs()
	for b.Loop() {
		if !m.Match(e) {
			b.Fatal("no match")
		}
	}
}
