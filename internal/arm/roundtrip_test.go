package arm_test

import (
	"encoding/json"
	"io"
	"maps"
	"rollcall/internal/pki"
	"strings"
	"testing"
)

// A PUT of what GET answered changes nothing, for every resource: clients get,
// change one member, and put.
func TestPutOfWhatWasReadChangesNothing(t *testing.T) {
	f := newFixture(t)
	rc := newReceiver(t, 200, true)
	const hook = ns + "/providers/Microsoft.EventGrid/eventSubscriptions/hook" + version
	for path, body := range map[string]string{
		hook: `{"properties":{"destination":{"endpointType":"WebHook","properties":{"endpointUrl":"` + rc.URL + `/?code=secret",
			"deliveryAttributeMappings":[{"name":"Authorization","type":"Static","properties":{"value":"Bearer x","isSecret":true}},
			{"name":"plain","type":"Static","properties":{"value":"v","isSecret":false}},{"name":"subject","type":"Dynamic","properties":{"sourceField":"subject"}}]}},
			"filter":{"subjectBeginsWith":"a"},"labels":["l"],"expirationTimeUtc":"2030-01-01T00:00:00Z","retryPolicy":{"maxDeliveryAttempts":3},
			"rollcall":{"paused":true}}}`,
		ns + "/clients/pump" + version: `{"properties":{"authenticationName":"Pump","description":"d","state":"Disabled","attributes":{"floor":4},
			"clientCertificateAuthentication":{"validationScheme":"SubjectMatchesAuthenticationName"}}}`,
		ns + "/caCertificates/root-ca" + version: `{"properties":{"description":"d","encodedCertificate":` + quoted(caPEM(f)) + `}}`,
	} {
		t.Run(path[:strings.Index(path, "?")], func(t *testing.T) {
			if status, _, text := f.do("PUT", path, body); status >= 300 {
				t.Fatalf("%d %s", status, text)
			}
			if path == hook {
				f.await("hook", "Succeeded")
			}
			_, _, read := f.do("GET", path, "")
			if status, _, text := f.do("PUT", path, read); status >= 300 {
				t.Fatalf("the PUT of what was read: %d %s", status, text)
			}
			_, _, again := f.do("GET", path, "")
			if a, b := settled(t, read), settled(t, again); a != b {
				t.Errorf("before\n%s\nafter\n%s", a, b)
			}
		})
	}
	_, _, full := f.do("POST", strings.Replace(hook, "/hook", "/hook/getFullUrl", 1), "")
	_, _, attributes := f.do("POST", strings.Replace(hook, "/hook", "/hook/getDeliveryAttributes", 1), "")
	if !strings.Contains(full, "code=secret") || !strings.Contains(attributes, "Bearer x") {
		t.Errorf("what is not shown was lost: %s %s", full, attributes)
	}
	if s, err := f.grid.Get(f.source, "hook"); err != nil || s.State != "Succeeded" {
		t.Errorf("%v %v", s.State, err)
	}
}

// Many services have the key of a webhook in its path. Who reads without the
// token is shown the host and a hash, and a PUT of that changes nothing.
func TestEndpointPathIsASecret(t *testing.T) {
	f := newFixture(t)
	rc := newReceiver(t, 200, true)
	const hook = ns + "/providers/Microsoft.EventGrid/eventSubscriptions/hook"
	f.do("PUT", hook+version, properties(rc.URL+"/services/hidden?code=hidden"))
	f.await("hook", "Succeeded")
	open := func(path string) string {
		res, err := f.client.Get(f.base + path)
		f.must(err)
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		f.must(err)
		if res.StatusCode != 200 {
			t.Errorf("%s: %d %s", path, res.StatusCode, text)
		}
		return string(text)
	}
	all := ns + "/providers/Microsoft.EventGrid/eventSubscriptions"
	for _, path := range []string{hook + version, all + version, "/rollcall/v1/eventSubscriptions", "/rollcall/v1/eventSubscriptions/hook"} {
		if text := open(path); strings.Contains(text, "hidden") || !strings.Contains(text, `"endpointBaseUrl":"`+rc.URL+"/#") {
			t.Errorf("without the token: %s", text)
		}
		if _, _, text := f.do("GET", path, ""); !strings.Contains(text, `"endpointBaseUrl":"`+rc.URL+`/services/hidden"`) || strings.Contains(text, "code=") {
			t.Errorf("with the token: %s", text)
		}
	}
	if status, _, text := f.do("PUT", hook+version, open(hook+version)); status != 201 {
		t.Errorf("PUT of what was read: %d %s", status, text)
	}
	if _, _, full := f.do("POST", hook+"/getFullUrl"+version, ""); !strings.Contains(full, "/services/hidden?code=hidden") {
		t.Errorf("the endpoint was lost: %s", full)
	}
	if s, err := f.grid.Get(f.source, "hook"); err != nil || s.State != "Succeeded" {
		t.Errorf("%v %v", s.State, err)
	}
}

// settled is a resource without what says when it was written.
func settled(t *testing.T, text string) string {
	t.Helper()
	var r map[string]any
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	maps.DeleteFunc(r, func(name string, _ any) bool { return name == "systemData" || name == "etag" })
	if p, ok := r["properties"].(map[string]any); ok {
		delete(p, "updatedOn")
	}
	out, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string
	}
	return string(b)
}

// Bodies with a member twice are refused, wherever it is.
func TestDuplicateMembers(t *testing.T) {
	f := newFixture(t)
	for body, path := range map[string]string{
		`{"properties":{"state":"Enabled"},"properties":{}}`:                                 "'properties'",
		`{"properties":{"state":"Enabled","state":"Disabled"}}`:                              "'properties.state'",
		`{"properties":{"attributes":{"a":[1,{"b":1,"c":{},"b":2}]}}}`:                       "'properties.attributes.a[].b'",
		`{"properties":{"attributes":{"a":{"x":1},"b":{"x":1},"":1,"c":[{"x":1},{"x":1}]}}}`: "",
	} {
		status, _, text := f.do("PUT", ns+"/clients/twice"+version, body)
		if path == "" && strings.Contains(text, "twice") || path != "" && (status != 400 || !strings.Contains(text, path)) {
			t.Errorf("%s: %d %s, want %q", body, status, text, path)
		}
	}
}

// caPEM is a CA certificate.
func caPEM(f *fixture) string {
	f.t.Helper()
	a, err := pki.OpenClientAuthority(f.t.TempDir(), still{}.Now())
	f.must(err)
	return string(a.PEM())
}
