package arm

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"rollcall/internal/fault"
)

func TestParseFilter(t *testing.T) {
	names := []string{"pump", "PUMP", "o'neil", "fan-1", ""}
	for _, c := range []struct {
		filter string
		want   string // of the names that match, joined by blanks
	}{
		{"name eq 'pump'", "pump PUMP"},
		{"'pump' eq name", "pump PUMP"},
		{"NAME NE 'pump'", "o'neil fan-1 "},
		{"contains(namE, 'um')", "pump PUMP"},
		{"contains(name,'um') ", "pump PUMP"},
		{"contains ( name , '' )", "pump PUMP o'neil fan-1 "},
		{"name eq 'o''neil'", "o'neil"},
		{"name eq ''", ""},
		{"not contains(name,'n')", "pump PUMP "},
		{"not not name eq 'pump'", "pump PUMP"},
		{"name eq 'pump' or name eq 'fan-1'", "pump PUMP fan-1"},
		{"name eq 'pump' or name eq 'fan-1' and name ne 'fan-1'", "pump PUMP"}, // and binds tighter
		{"(name eq 'pump' or name eq 'fan-1') and name ne 'fan-1'", "pump PUMP"},
		{"not (name eq 'pump' or contains(name,'n')) and not name eq ''", "-"},
		{"not name eq 'a' and not name eq 'pump' and name ne 'o''neil' and name ne ''", "fan-1"},
		{"name eq 'a and b'", "-"},
	} {
		f, err := parseFilter(c.filter)
		if err != nil {
			t.Errorf("%s: %v", c.filter, err)
			continue
		}
		var got []string
		for _, n := range names {
			if f(n) {
				got = append(got, n)
			}
		}
		if want := strings.Split(c.want, " "); c.want != "-" && strings.Join(got, " ") != strings.Join(want, " ") || c.want == "-" && got != nil {
			t.Errorf("%s: %q, want %q", c.filter, got, want)
		}
	}
	for _, bad := range []string{
		" ", "name", "name eq", "name eq pump", "name eq \"pump\"", "name eq 'pump", "'a' eq 'b'", "name eq name", "state eq 'x'",
		"name gt 'a'", "name eq 'a' or", "name eq 'a' name", "or", "(name eq 'a'", "name eq 'a')", "contains(name)", "contains('a',name)",
		"contains(name,'a','b')", "startswith(name,'a')", "not", "not()", "name eq 'a' xor name eq 'b'", "name eq 'a',", "eq",
		strings.Repeat("(", 1000), strings.Repeat("not ", 33) + "name eq 'a'", "name eq '" + strings.Repeat("x", maxFilter) + "'",
	} {
		if _, err := parseFilter(bad); err == nil {
			t.Errorf("%.50q was accepted", bad)
		} else if e, ok := fault.As(err); !ok || e.Target != "$filter" || len(e.Message) > 400 {
			t.Errorf("%.50q: %v", bad, err)
		}
	}
}

func FuzzParseFilter(f *testing.F) {
	for _, s := range []string{"name eq 'a'", "contains(name,'x') and not (name ne 'y' or 'z' eq name)", "((((", "'''", "NAME Eq''"} {
		f.Add(s, "a")
	}
	f.Fuzz(func(t *testing.T, s, name string) {
		p, err := parseFilter(s)
		if err != nil {
			if e, ok := fault.As(err); !ok || e.Code != fault.InvalidRequest {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		yes := p(name)
		not, err := parseFilter("not (" + s + ")")
		if err != nil { // it may have become too long or too deep
			return
		}
		if not(name) == yes {
			t.Fatalf("%q and its opposite both say %v of %q", s, yes, name)
		}
		both, err := parseFilter("(" + s + ") and (" + s + ")")
		if err == nil && both(name) != yes {
			t.Fatalf("%q twice does not say %v of %q", s, yes, name)
		}
	})
}

func TestParseID(t *testing.T) {
	for path, want := range map[string]resourceID{
		"/subscriptions/S":                                     {subscription: "S"},
		"/subscriptions":                                       {tail: "subscriptions"},
		"/SUBSCRIPTIONS/S/resourcegroups":                      {subscription: "S", tail: "resourcegroups"},
		"/subscriptions/S/resourceGroups/G":                    {subscription: "S", group: "G"},
		"/subscriptions/S/resourceGroups/G/Providers/P":        {subscription: "S", group: "G", blocks: []block{{provider: "P"}}},
		"/subscriptions/S/providers/P/T":                       {subscription: "S", blocks: []block{{provider: "P"}}, tail: "T"},
		"/providers/P/T/N":                                     {blocks: []block{{"P", []pair{{"T", "N"}}}}},
		"/subscriptions/S/providers/P/T/providers/providers/Q": {subscription: "S", blocks: []block{{"P", []pair{{"T", "providers"}}}, {provider: "Q"}}},
		"/subscriptions/S/providers/P/T/a%2Fb/U/c%20d/act":     {subscription: "S", blocks: []block{{"P", []pair{{"T", "a/b"}, {"U", "c d"}}}}, tail: "act"},
	} {
		segs, err := segments(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseID(segs)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", path, got, err, want)
		}
	}
	for _, path := range []string{"/subscriptions/S/T/N", "/subscriptions/S/resourceGroups/G/T/N", "/providers/P/providers/Q/T"} {
		segs, err := segments(path)
		if err != nil {
			t.Fatal(err)
		}
		if id, err := parseID(segs); err == nil {
			t.Errorf("%s was accepted as %+v", path, id)
		}
	}
}

// path writes an id as a path again.
func (id resourceID) path() string {
	var b strings.Builder
	add := func(s ...string) {
		for _, seg := range s {
			b.WriteString("/" + url.PathEscape(seg))
		}
	}
	if id.subscription != "" {
		add("subscriptions", id.subscription)
	}
	if id.group != "" {
		add("resourceGroups", id.group)
	}
	for _, bl := range id.blocks {
		add("providers", bl.provider)
		for _, p := range bl.pairs {
			add(p.kind, p.name)
		}
	}
	if id.tail != "" {
		add(id.tail)
	}
	return b.String()
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{
		"/subscriptions/S/resourceGroups/G/providers/Microsoft.EventGrid/namespaces/n/clients/c", "//a//b/%2F", "/providers", "/subscriptions/providers/providers",
		"/subscriptions/S/providers/P/T/N/providers/Microsoft.EventGrid/eventSubscriptions/e/getFullUrl", "/%zz",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		segs, err := segments(path)
		if err != nil {
			return
		}
		id, err := parseID(segs)
		if err != nil {
			if e, ok := fault.As(err); !ok || e.Code != fault.NotFound {
				t.Fatalf("%q: %v", path, err)
			}
			return
		}
		again, err := segments(id.path())
		if err != nil {
			t.Fatal(err)
		}
		if len(again) != len(segs) {
			t.Fatalf("%q became %q", path, id.path())
		}
		back, err := parseID(again)
		if err != nil || !reflect.DeepEqual(back, id) {
			t.Fatalf("%q: %+v, then %+v, %v", path, id, back, err)
		}
		for i, b := range id.blocks {
			if b.provider == "" || len(b.pairs) == 0 && i < len(id.blocks)-1 {
				t.Fatalf("%q: block %d is %+v", path, i, b)
			}
		}
	})
}

func TestExempt(t *testing.T) {
	var a API
	for path, want := range map[string]bool{
		"/eventsubscriptions/HOOK/validate":   true,
		"/EventSubscriptions/a%2Fb/Validate":  true,
		"//eventsubscriptions/x//validate":    true,
		"/eventsubscriptions/HOOK":            false,
		"/eventsubscriptions/HOOK/validate/x": false,
		"/eventsubscriptions/a/b/validate":    false,
		"/eventsubscriptions%2FHOOK/validate": false,
		"/rollcall/v1/keys":                   false,
		"/rollcall/x/validate":                false,
		"/":                                   false,
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		u, err := url.ParseRequestURI(path)
		if err != nil {
			t.Fatal(err)
		}
		r.URL = u
		if got := a.Exempt(r); got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
}

func TestOperationNames(t *testing.T) {
	for _, bad := range []string{"", "x", "{00000000-0000-0001-18ed-125908d10000}", "urn:uuid:00000000-0000-0001-18ed-125908d10000", "0000000000000001 8ed125908d10000"} {
		if _, _, ok := parseOperation(bad); ok {
			t.Errorf("%q is taken for an operation", bad)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("no options were accepted")
	}
}
