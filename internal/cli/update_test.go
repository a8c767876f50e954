package cli

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"rollcall/internal/servertest"
)

// consenting is a webhook that wants events.
func consenting(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodOptions {
			w.Header().Set("WebHook-Allowed-Origin", r.Header.Get("WebHook-Request-Origin"))
			w.Header().Set("WebHook-Allowed-Rate", "*")
		}
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	t.Cleanup(s.Close)
	return s.URL + "/events?code=secret"
}

// Each flag of an update changes what it names, and nothing else: also of what
// is not shown, such as the endpoint's query and secret headers.
func TestUpdateChangesWhatItsFlagsName(t *testing.T) {
	s := servertest.Start(t, nil)
	where := []string{"--url", s.Info.HTTP[0], "--token", s.Token()}
	must := func(args ...string) {
		t.Helper()
		if code, out, errOut := run(append(args, where...)...); code != 0 {
			t.Fatalf("%v: exit %d\n%s%s", args, code, out, errOut)
		}
	}
	hook := consenting(t)
	must("event-subscription", "create", "hook", "--endpoint", hook, "--type", "MQTTClientSessionConnected", "--subject-begins-with", "a",
		"--subject-ends-with", "z", "--subject-case-sensitive", "--max-events-per-batch", "7", "--preferred-batch-kb", "9", "--max-attempts", "5", "--ttl", "60",
		"--dead-letter", "dir", "--header", "Authorization=Bearer x", "--label", "l", "--expires", "2100-01-01T00:00:00Z")
	must("client", "create", "pump", "--description", "d", "--attribute", "floor=4")

	const subPath = "/providers/Microsoft.EventGrid/eventSubscriptions/hook"
	ns := s.Config.Resource.NamespaceID()
	read := func(path string) map[string]string {
		t.Helper()
		flat := map[string]string{}
		var v any
		if err := json.Unmarshal(s.Must(http.MethodGet, ns+path+"?api-version=2025-02-15", nil), &v); err != nil {
			t.Fatal(err)
		}
		flatten("", v, flat)
		if path == subPath {
			for _, action := range []string{"/getFullUrl", "/getDeliveryAttributes"} {
				if err := json.Unmarshal(s.Must(http.MethodPost, ns+path+action+"?api-version=2025-02-15", nil), &v); err != nil {
					t.Fatal(err)
				}
				flatten(action, v, flat)
			}
		}
		for name := range flat {
			if strings.HasPrefix(name, ".systemData") || strings.HasSuffix(name, ".updatedOn") || name == ".etag" {
				delete(flat, name)
			}
		}
		return flat
	}
	for _, c := range []struct {
		kind, name, path, flag, value string
		changes                       string // what of the resource may change
	}{
		{"event-subscription", "hook", subPath, "endpoint", hook + "2", "/getFullUrl"},
		{"event-subscription", "hook", subPath, "schema", "eventgrid", "eventDeliverySchema"},
		{"event-subscription", "hook", subPath, "type", "MQTTClientSessionDisconnected", "includedEventTypes"},
		{"event-subscription", "hook", subPath, "subject-begins-with", "b", "subjectBeginsWith"},
		{"event-subscription", "hook", subPath, "subject-ends-with", "y", "subjectEndsWith"},
		{"event-subscription", "hook", subPath, "subject-case-sensitive", "false", "isSubjectCaseSensitive"},
		{"event-subscription", "hook", subPath, "max-events-per-batch", "8", "maxEventsPerBatch"},
		{"event-subscription", "hook", subPath, "preferred-batch-kb", "10", "preferredBatchSizeInKilobytes"},
		{"event-subscription", "hook", subPath, "max-attempts", "6", "maxDeliveryAttempts"},
		{"event-subscription", "hook", subPath, "ttl", "61", "eventTimeToLiveInMinutes"},
		{"event-subscription", "hook", subPath, "dead-letter", "other", "deadLetterDirectory"},
		{"event-subscription", "hook", subPath, "label", "m", "labels"},
		{"event-subscription", "hook", subPath, "expires", "2101-01-01T00:00:00Z", "expirationTimeUtc"},
		{"event-subscription", "hook", subPath, "header", "X-Other=y", "ttributes"},
		{"client", "pump", "/clients/pump", "description", "e", "description"},
		{"client", "pump", "/clients/pump", "attribute", "room=2", "attributes.room"},
		{"client", "pump", "/clients/pump", "state", "Disabled", "state"},
	} {
		t.Run(c.kind+" "+c.flag, func(t *testing.T) {
			before := read(c.path)
			must(c.kind, "update", c.name, "--"+c.flag+"="+c.value)
			after, changed := read(c.path), 0
			for name := range union(before, after) {
				if before[name] == after[name] {
					continue
				}
				changed++
				if !strings.Contains(name, c.changes) && !(c.flag == "header" && strings.Contains(name, "deliveryAttributeMappings")) {
					t.Errorf("%s was %q and is %q", name, before[name], after[name])
				}
			}
			if changed == 0 {
				t.Error("nothing changed")
			}
		})
	}
	// No flag was forgotten above.
	known := map[string]bool{"wait": true, "help": true}
	for _, name := range []string{"endpoint", "schema", "type", "subject-begins-with", "subject-ends-with", "subject-case-sensitive", "max-events-per-batch",
		"preferred-batch-kb", "max-attempts", "ttl", "dead-letter", "label", "expires", "header"} {
		known[name] = true
	}
	subUpdate(new(target)).Flags().VisitAll(func(f *pflag.Flag) {
		if !known[f.Name] {
			t.Errorf("--%s of event-subscription update has no row", f.Name)
		}
	})
}

func flatten(at string, v any, into map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		for name, inner := range v {
			flatten(at+"."+name, inner, into)
		}
	default:
		text, err := json.Marshal(v)
		if err != nil {
			panic(err) // it came from JSON
		}
		into[at] = string(text)
	}
}

func union(a, b map[string]string) map[string]bool {
	all := map[string]bool{}
	for name := range a {
		all[name] = true
	}
	for name := range b {
		all[name] = true
	}
	return all
}
