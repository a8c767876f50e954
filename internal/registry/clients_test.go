package registry

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"rollcall/internal/fault"
)

func TestPutClientDefaults(t *testing.T) {
	r := open(t, Options{})
	c, created, err := r.PutClient(t.Context(), "dev.1:a_B-2", ClientSpec{}, Condition{})
	if err != nil || !created {
		t.Fatalf("created %v, %v", created, err)
	}
	want := Client{
		Name: "dev.1:a_B-2", AuthenticationName: "dev.1:a_B-2", State: Enabled, ValidationScheme: SubjectMatches,
		Attributes: map[string]any{}, ProvisioningState: "Succeeded",
		CreatedOn: c.CreatedOn, UpdatedOn: c.CreatedOn, Revision: c.Revision,
	}
	if !reflect.DeepEqual(c, want) || c.CreatedOn.IsZero() || c.Revision == 0 {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	got, err := r.Client("dev.1:a_B-2")
	if err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("read back %+v, %v\nwant %+v", got, err, c)
	}
}

func TestPutClientReplaces(t *testing.T) {
	rec := newRecorder()
	r := open(t, Options{Stager: rec, Settings: Settings{Passwords: true}})
	full := ClientSpec{
		AuthenticationName: "Müller@Example.com/1", Description: "first", State: "disabled",
		ValidationScheme: "thumbprintmatch", AllowedThumbprints: []string{strings.Repeat("Ab:", 32)},
		Attributes: map[string]any{"s": "x", "n": json.Number("-5"), "f": 3.0, "b": true, "l": []any{"a", "b"}, "e": []any{}},
		Password:   ptr("secret"),
	}
	first := put(t, r, "c", full)
	if first.State != Disabled || first.ValidationScheme != ThumbprintMatch || !first.HasPassword {
		t.Errorf("got %+v", first)
	}
	wantAttrs := map[string]any{"s": "x", "n": int64(-5), "f": int64(3), "b": true, "l": []string{"a", "b"}, "e": []string{}}
	if !reflect.DeepEqual(first.Attributes, wantAttrs) {
		t.Errorf("attributes are %#v, want %#v", first.Attributes, wantAttrs)
	}
	// The same content: nothing happens.
	again, created, err := r.PutClient(t.Context(), "c", full, Condition{})
	if err != nil || created || !reflect.DeepEqual(again, first) || len(rec.all()) != 1 {
		t.Errorf("the same again: created %v, %v, %d events\ngot  %+v\nwant %+v", created, err, len(rec.all()), again, first)
	}
	// What is left out takes its default; name, birth and password stay.
	second, created, err := r.PutClient(t.Context(), "c", ClientSpec{}, Condition{})
	want := Client{
		Name: "c", AuthenticationName: "Müller@Example.com/1", State: Enabled, ValidationScheme: SubjectMatches,
		Attributes: map[string]any{}, ProvisioningState: Succeeded, HasPassword: true,
		CreatedOn: first.CreatedOn, UpdatedOn: second.UpdatedOn, Revision: second.Revision,
	}
	if err != nil || created || !reflect.DeepEqual(second, want) {
		t.Errorf("created %v, %v\ngot  %+v\nwant %+v", created, err, second, want)
	}
	if !second.UpdatedOn.After(first.UpdatedOn) || second.Revision <= first.Revision {
		t.Errorf("update times %v, %v and revisions %d, %d do not rise", first.UpdatedOn, second.UpdatedOn, first.Revision, second.Revision)
	}
	if c := put(t, r, "c", ClientSpec{Password: ptr("")}); c.HasPassword {
		t.Error("the password was not removed")
	}
	if existed, err := r.DeleteClient(t.Context(), "c", Condition{}); !existed || err != nil {
		t.Errorf("delete: %v, %v", existed, err)
	}
	if existed, err := r.DeleteClient(t.Context(), "c", Condition{}); existed || err != nil {
		t.Errorf("delete again: %v, %v", existed, err)
	}
	if _, err := r.Client("c"); code(err) != fault.NotFound {
		t.Errorf("read after delete: %v", err)
	}
	var kinds []ChangeKind
	for _, e := range rec.all() {
		kinds = append(kinds, e.Kind)
	}
	if !slices.Equal(kinds, []ChangeKind{Upserted, Upserted, Upserted, Deleted}) || rec.disord {
		t.Errorf("events %v (out of order: %v)", kinds, rec.disord)
	}
	if last := rec.all()[3]; last.Client.AuthenticationName != "Müller@Example.com/1" || last.EventID == "" || last.Time.Before(second.UpdatedOn) {
		t.Errorf("the event of the deletion is %+v", last)
	}
}

func TestClientsShareNothing(t *testing.T) {
	r := open(t, Options{})
	put(t, r, "c", ClientSpec{Attributes: map[string]any{"l": []string{"a"}}})
	c, _ := r.Client("c")
	c.Attributes["l"].([]string)[0] = "changed"
	c.Attributes["new"] = "x"
	if again, _ := r.Client("c"); !reflect.DeepEqual(again.Attributes, map[string]any{"l": []string{"a"}}) {
		t.Errorf("a reader changed the registry: %v", again.Attributes)
	}
}

func TestPutClientRefuses(t *testing.T) {
	r := open(t, Options{Settings: Settings{Passwords: true}})
	thumb := strings.Repeat("0", 64)
	big := map[string]any{"a": strings.Repeat("x", 4096-len(`{"a":""}`))}
	fits := map[string]any{"a": strings.Repeat("x", 4095-len(`{"a":""}`))}
	for _, c := range []struct {
		name    string
		client  string
		spec    ClientSpec
		targets []string
	}{
		{"no name", "", ClientSpec{}, []string{"name"}},
		{"long name", strings.Repeat("a", 129), ClientSpec{}, []string{"name"}},
		{"longest name", strings.Repeat("a", 128), ClientSpec{}, nil},
		{"bad name", "a/b", ClientSpec{}, []string{"name"}},
		{"name with newline", "a\n", ClientSpec{}, []string{"name"}},
		{"longest authentication name", "a1", ClientSpec{AuthenticationName: strings.Repeat("ü", 128)}, nil},
		{"long authentication name", "a", ClientSpec{AuthenticationName: strings.Repeat("ü", 129)}, []string{pathAuth}},
		{"authentication name with NUL", "a", ClientSpec{AuthenticationName: "a\x00"}, []string{pathAuth}},
		{"authentication name not UTF-8", "a", ClientSpec{AuthenticationName: "\xff"}, []string{pathAuth}},
		{"state", "a", ClientSpec{State: "Off"}, []string{pathState}},
		{"scheme", "a", ClientSpec{ValidationScheme: "Any"}, []string{pathScheme}},
		{"thumbprints missing", "a", ClientSpec{ValidationScheme: "ThumbprintMatch"}, []string{pathThumbprints}},
		{"thumbprints too many", "a", ClientSpec{ValidationScheme: "ThumbprintMatch", AllowedThumbprints: []string{thumb, thumb, thumb}}, []string{pathThumbprints}},
		{"thumbprints malformed", "a", ClientSpec{ValidationScheme: "ThumbprintMatch", AllowedThumbprints: []string{"zz", thumb}}, []string{pathThumbprints}},
		{"thumbprints of another scheme", "a", ClientSpec{ValidationScheme: "DnsMatchesAuthenticationName", AllowedThumbprints: []string{thumb}}, []string{pathThumbprints}},
		{"attribute name", "a", ClientSpec{Attributes: map[string]any{"a-b": "x"}}, []string{pathAttributes}},
		{"attribute name empty", "a", ClientSpec{Attributes: map[string]any{"": "x"}}, []string{pathAttributes}},
		{"attribute fraction", "a", ClientSpec{Attributes: map[string]any{"a": 1.5}}, []string{pathAttributes + ".a"}},
		{"attribute too large a number", "a", ClientSpec{Attributes: map[string]any{"a": json.Number("9223372036854775808")}}, []string{pathAttributes + ".a"}},
		{"attribute null", "a", ClientSpec{Attributes: map[string]any{"a": nil}}, []string{pathAttributes + ".a"}},
		{"attribute object", "a", ClientSpec{Attributes: map[string]any{"a": map[string]any{}}}, []string{pathAttributes + ".a"}},
		{"attribute mixed list", "a", ClientSpec{Attributes: map[string]any{"a": []any{"x", 1.0}}}, []string{pathAttributes + ".a"}},
		{"attributes too large", "a", ClientSpec{Attributes: big}, []string{pathAttributes}},
		{"attributes that just fit", "a2", ClientSpec{Attributes: fits}, nil},
		{"description", "a", ClientSpec{Description: strings.Repeat("x", 4097)}, []string{pathDescription}},
		{"password", "a", ClientSpec{Password: ptr(strings.Repeat("x", 1025))}, []string{pathPassword}},
		{"everything", "/", ClientSpec{AuthenticationName: "\xff", State: "x", ValidationScheme: "x", Description: "\xff"},
			[]string{"name", pathAuth, pathDescription, pathState, pathScheme}},
	} {
		_, _, err := r.PutClient(t.Context(), c.client, c.spec, Condition{})
		var targets []string
		if f, ok := fault.As(err); ok {
			if f.Code != fault.InvalidRequest {
				t.Errorf("%s: code %s", c.name, f.Code)
			}
			for _, d := range f.Details {
				targets = append(targets, d.Target)
			}
			if len(f.Details) == 0 {
				targets = []string{f.Target}
			}
		} else if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if !slices.Equal(targets, c.targets) {
			t.Errorf("%s: mistakes at %q, want %q", c.name, targets, c.targets)
		}
	}
	azure := open(t, Options{})
	if _, _, err := azure.PutClient(t.Context(), "a", ClientSpec{Password: ptr("secret")}, Condition{}); code(err) != fault.InvalidRequest {
		t.Errorf("a password where there are none: %v", err)
	}
}

func TestAuthenticationNameIsUniqueAndFixed(t *testing.T) {
	r := open(t, Options{})
	put(t, r, "a", ClientSpec{AuthenticationName: "Straße-K"})
	for _, taken := range []string{"Straße-K", "STRAßE-k", "straße-\u212a"} {
		_, _, err := r.PutClient(t.Context(), "b", ClientSpec{AuthenticationName: taken}, Condition{})
		if f, ok := fault.As(err); !ok || f.Code != fault.Conflict || f.Target != pathAuth {
			t.Errorf("authentication name %q: %v, want a Conflict", taken, err)
		}
	}
	for _, other := range []string{"x", "straße-k"} {
		_, _, err := r.PutClient(t.Context(), "a", ClientSpec{AuthenticationName: other}, Condition{})
		if f, ok := fault.As(err); !ok || f.Code != fault.InvalidRequest || f.Target != pathAuth {
			t.Errorf("change to %q: %v, want InvalidRequest", other, err)
		}
	}
	if c, ok := r.ClientByAuthenticationName("sTRAßE-k"); !ok || c.AuthenticationName != "Straße-K" {
		t.Errorf("found %v, %+v", ok, c)
	}
	// A deleted client's name is free.
	r.DeleteClient(t.Context(), "a", Condition{})
	put(t, r, "b", ClientSpec{AuthenticationName: "straße-k"})
	if c, ok := r.ClientByAuthenticationName("Straße-K"); !ok || c.Name != "b" {
		t.Errorf("found %v, %+v", ok, c)
	}
}

func TestRacingCreates(t *testing.T) {
	r := open(t, Options{})
	for round := range 20 {
		const n = 8
		errs := make([]error, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				_, _, errs[i] = r.PutClient(t.Context(), fmt.Sprintf("c%d-%d", round, i), ClientSpec{AuthenticationName: fmt.Sprintf("Name%d", round)}, Condition{})
			})
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			switch {
			case err == nil:
				won++
			case code(err) != fault.Conflict:
				t.Fatalf("round %d: %v", round, err)
			}
		}
		if won != 1 {
			t.Fatalf("round %d: %d creates won, want 1", round, won)
		}
	}
	if n, _ := r.Count(); n != 20 {
		t.Fatalf("%d clients, want 20", n)
	}
}

func TestConditions(t *testing.T) {
	r := open(t, Options{})
	c := put(t, r, "a", ClientSpec{})
	for _, bad := range []Condition{{Absent: true}, {Revision: c.Revision + 1}} {
		if _, _, err := r.PutClient(t.Context(), "a", ClientSpec{Description: "x"}, bad); code(err) != fault.PreconditionFailed {
			t.Errorf("put with %+v: %v", bad, err)
		}
	}
	if _, _, err := r.PutClient(t.Context(), "new", ClientSpec{}, Condition{Revision: 1}); code(err) != fault.PreconditionFailed {
		t.Errorf("put of a new one with a revision: %v", err)
	}
	if _, err := r.DeleteClient(t.Context(), "a", Condition{Revision: c.Revision + 1}); code(err) != fault.PreconditionFailed {
		t.Errorf("delete: %v", err)
	}
	if _, _, err := r.PutClient(t.Context(), "a", ClientSpec{Description: "x"}, Condition{Revision: c.Revision}); err != nil {
		t.Errorf("put with the right revision: %v", err)
	}
}

func TestListClients(t *testing.T) {
	r := open(t, Options{})
	for _, n := range []string{"b", "a", "d", "c", "x1", "x2"} {
		put(t, r, n, ClientSpec{})
	}
	for _, c := range []struct {
		after string
		limit int
		keep  func(string) bool
		want  string
		more  bool
	}{
		{"", 0, nil, "a b c d x1 x2", false},
		{"", 2, nil, "a b", true},
		{"b", 2, nil, "c d", true},
		{"b", 4, nil, "c d x1 x2", false},
		{"bb", 1, nil, "c", true},
		{"x2", 5, nil, "", false},
		{"", 1, func(n string) bool { return strings.HasPrefix(n, "x") }, "x1", true},
		{"x1", 1, func(n string) bool { return strings.HasPrefix(n, "x") }, "x2", false},
		{"", 6, nil, "a b c d x1 x2", false},
	} {
		page, more := r.Clients(c.after, c.limit, c.keep)
		var names []string
		for _, p := range page {
			names = append(names, p.Name)
		}
		if got := strings.Join(names, " "); got != c.want || more != c.more {
			t.Errorf("Clients(%q, %d) = %q, %v, want %q, %v", c.after, c.limit, got, more, c.want, c.more)
		}
	}
}

func TestLimits(t *testing.T) {
	r := open(t, Options{Settings: Settings{MaxClients: 5, MaxCAs: 2}})
	var wg sync.WaitGroup
	errs := make([]error, 12)
	for i := range errs {
		wg.Go(func() { _, _, errs[i] = r.PutClient(t.Context(), fmt.Sprint("c", i), ClientSpec{}, Condition{}) })
	}
	wg.Wait()
	refused := 0
	for _, err := range errs {
		if err != nil {
			if code(err) != fault.Conflict {
				t.Fatal(err)
			}
			refused++
		}
	}
	if n, _ := r.Count(); n != 5 || refused != 7 {
		t.Errorf("%d clients, %d refused, want 5 and 7", n, refused)
	}
	page, _ := r.Clients("", 1, nil)
	put(t, r, page[0].Name, ClientSpec{Description: "a replacement needs no place"})
	r.DeleteClient(t.Context(), page[0].Name, Condition{})
	put(t, r, "another", ClientSpec{})

	ca := newIssuer(t, nil, "CA")
	putCA(t, r, "ca1", ca)
	putCA(t, r, "ca2", ca)
	if _, _, err := r.PutCA(t.Context(), "ca3", CASpec{EncodedCertificate: ca.pem()}, Condition{}); code(err) != fault.Conflict {
		t.Errorf("a third CA: %v", err)
	}
}
