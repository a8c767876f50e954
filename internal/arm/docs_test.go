package arm_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Every request in docs/api.md is one that is served.
func TestDocumentedRequests(t *testing.T) {
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t)
	values := strings.NewReplacer("{sub}", subID, "{group}", group, "{ns}", ns,
		"{client}", "absent", "{ca}", "absent", "{name}", "absent", "{session}", "absent", "{topic}", "absent", "{operation}", "absent")
	n := 0
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z]+) (/[^`?]*|\\{[^`?]*)").FindAllStringSubmatch(string(text), -1) {
		path := values.Replace(m[2])
		if path == "/metrics" || path == "/rollcall/v1/events/tail" { // served by package httpd, and a stream
			continue
		}
		n++
		if strings.HasPrefix(path, "/subscriptions") {
			path += version
		}
		status, _, body := f.do(m[1], path, "")
		if status == 405 || strings.Contains(body, "nothing at this path") || strings.Contains(body, "resource type") {
			t.Errorf("%s %s: %d %s", m[1], path, status, body)
		}
	}
	if n < 30 {
		t.Errorf("only %d requests were found", n)
	}
}
