package topic

import (
	"errors"
	"strings"
	"testing"
)

func clauseOf(err error) string {
	var e *Error
	switch {
	case err == nil:
		return "ok"
	case !errors.As(err, &e):
		return "not an *Error"
	case e.Clause == "":
		return "limit"
	}
	return e.Clause
}

func TestValidateName(t *testing.T) {
	small := Limits{MaxBytes: 8, MaxLevels: 3}
	for _, tt := range []struct {
		name string
		l    Limits
		want string
	}{
		{"a", Limits{}, "ok"},
		{"/", Limits{}, "ok"},
		{"//a//", Limits{}, "ok"},
		{"$SYS/x", Limits{}, "ok"},
		{"a b/\u00e9\ufeff/\u0001", Limits{}, "ok"},
		{strings.Repeat("x", 65535), Limits{}, "ok"},
		{strings.Repeat("/", 65535), Limits{}, "ok"},
		{"", Limits{}, "MQTT-4.7.3-1"},
		{"a/+/b", Limits{}, "MQTT-4.7.0-1"},
		{"a#", Limits{}, "MQTT-4.7.0-1"},
		{"a\x00", Limits{}, "MQTT-4.7.3-2"},
		{"a\xff", Limits{}, "MQTT-1.5.4-1"},
		{"\xed\xa0\x80", Limits{}, "MQTT-1.5.4-1"}, // a surrogate
		{"\xc0\x80", Limits{}, "MQTT-1.5.4-1"},     // overlong
		{"a\xe2\x82", Limits{}, "MQTT-1.5.4-1"},    // cut short
		{strings.Repeat("x", 65536), Limits{}, "MQTT-4.7.3-3"},
		{"a/b/c", small, "ok"},
		{"12345678", small, "ok"},
		{"123456789", small, "limit"},
		{"a/b/c/", small, "limit"},
	} {
		if got := clauseOf(ValidateName(tt.name, tt.l)); got != tt.want {
			t.Errorf("ValidateName(%.20q): got %s, want %s", tt.name, got, tt.want)
		}
		if got := clauseOf(ValidateName([]byte(tt.name), tt.l)); got != tt.want {
			t.Errorf("ValidateName of bytes %.20q: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestValidateFilter(t *testing.T) {
	small := Limits{MaxBytes: 8, MaxLevels: 3}
	for _, tt := range []struct {
		filter string
		l      Limits
		want   string
	}{
		{"#", Limits{}, "ok"},
		{"+", Limits{}, "ok"},
		{"+/+/#", Limits{}, "ok"},
		{"/#", Limits{}, "ok"},
		{"/+", Limits{}, "ok"},
		{"a//+/b", Limits{}, "ok"},
		{"a/", Limits{}, "ok"},
		{"$share", Limits{}, "ok"},
		{"$share/g/a/#", Limits{}, "ok"},
		{"$share/g//", Limits{}, "ok"},
		{"", Limits{}, "MQTT-4.7.3-1"},
		{"a#", Limits{}, "MQTT-4.7.1-1"},
		{"a/#/b", Limits{}, "MQTT-4.7.1-1"},
		{"#/", Limits{}, "MQTT-4.7.1-1"},
		{"##", Limits{}, "MQTT-4.7.1-1"},
		{"a+", Limits{}, "MQTT-4.7.1-2"},
		{"a/+b/c", Limits{}, "MQTT-4.7.1-2"},
		{"++", Limits{}, "MQTT-4.7.1-2"},
		{"a/\x00", Limits{}, "MQTT-4.7.3-2"},
		{"\xff/#", Limits{}, "MQTT-1.5.4-1"},
		{strings.Repeat("x", 65536), Limits{}, "MQTT-4.7.3-3"},
		{"$share/", Limits{}, "MQTT-4.8.2-1"},
		{"$share//a", Limits{}, "MQTT-4.8.2-1"},
		{"$share/g", Limits{}, "MQTT-4.8.2-2"},
		{"$share/g/", Limits{}, "MQTT-4.8.2-2"},
		{"$share/g+/a", Limits{}, "MQTT-4.8.2-2"},
		{"$share/#/a", Limits{}, "MQTT-4.8.2-2"},
		{"$share/g\x00/a", Limits{}, "MQTT-4.7.3-2"},
		{"$share/g/a#", Limits{}, "MQTT-4.7.1-1"},
		{"a/b/#", small, "ok"},
		{"a/b/c/#", small, "limit"},
		{"$share/group/a/b/#", small, "ok"},
		{"$share/group/123456789", small, "limit"},
	} {
		if got := clauseOf(ValidateFilter(tt.filter, tt.l)); got != tt.want {
			t.Errorf("ValidateFilter(%.20q): got %s, want %s", tt.filter, got, tt.want)
		}
	}
}

func TestParseShared(t *testing.T) {
	for _, tt := range []struct {
		filter, share, inner string
		shared               bool
	}{
		{"a/b", "", "a/b", false},
		{"$share", "", "$share", false},
		{"$shared/g/a", "", "$shared/g/a", false},
		{"$share/g/a/b", "g", "a/b", true},
		{"$share/g//b", "g", "/b", true},
		{"$share/g/$share/h/x", "g", "$share/h/x", true},
	} {
		share, inner, shared, err := ParseShared(tt.filter)
		if share != tt.share || inner != tt.inner || shared != tt.shared || err != nil {
			t.Errorf("ParseShared(%q): got %q %q %v %v", tt.filter, share, inner, shared, err)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		filter, name string
		want         bool
	}{
		{"sport/tennis/player1/#", "sport/tennis/player1", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/ranking", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
		{"sport/tennis/player1/#", "sport/tennis/player2", false},
		{"sport/#", "sport", true},
		{"sport/#", "sports", false},
		{"sport/#", "sport/", true},
		{"#", "a", true},
		{"#", "/", true},
		{"sport/tennis/+", "sport/tennis/player1", true},
		{"sport/tennis/+", "sport/tennis/player1/ranking", false},
		{"sport/+", "sport", false},
		{"sport/+", "sport/", true},
		{"+/+", "/finance", true},
		{"/+", "/finance", true},
		{"+", "/finance", false},
		{"+/#", "a", true},
		{"+/+/#", "a", false},
		{"a", "a/", false},
		{"a/", "a", false},
		{"a/", "a/", true},
		{"a//b", "a//b", true},
		{"a/+/b", "a//b", true},
		{"a/b", "a/B", false},
		{"a", "ab", false},
		{"ab", "a", false},
		{"#", "$SYS/x", false},
		{"+/monitor", "$SYS/monitor", false},
		{"+", "$SYS", false},
		{"$SYS/#", "$SYS/a/b", true},
		{"$SYS/#", "$SYS", true},
		{"$SYS/monitor/+", "$SYS/monitor/c", true},
		{"a/#", "a/$SYS", true},
		{"a/+", "a/$x", true},
		{"\u00e9", "e\u0301", false}, // no normalization [MQTT-4.7.3-4]
		{"\ufeffa", "a", false},
	} {
		if got := Match(tt.filter, tt.name); got != tt.want {
			t.Errorf("Match(%q, %q): got %v", tt.filter, tt.name, got)
		}
		tree := NewTree[int, int]()
		tree.Subscribe(tt.filter, 1, 1)
		if got := len(tree.Match([]byte(tt.name), nil)) == 1; got != tt.want {
			t.Errorf("Tree with %q, match %q: got %v", tt.filter, tt.name, got)
		}
	}
}
