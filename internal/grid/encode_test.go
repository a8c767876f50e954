package grid

import (
	"strings"
	"testing"

	"rollcall/internal/delivery/webhook"
)

// What is shown of a subscription keeps its characters, so that a URL can be
// copied.
func TestPropertiesAreNotEscapedForHTML(t *testing.T) {
	s := Subscription{Properties: Properties{
		Labels: []string{"a&b"},
		Destination: WebHook{
			EndpointURL: "https://example.com/a&b", Attributes: []webhook.Attribute{{Name: "h", Value: "<v>"}},
		},
	}}
	shown, err := s.PropertiesJSON(true)
	if err != nil {
		t.Fatal(err)
	}
	attributes, err := s.AttributesJSON()
	if err != nil {
		t.Fatal(err)
	}
	for text, wants := range map[string][]string{
		string(shown):      {`"a&b"`, `"https://example.com/a&b"`, `"<v>"`},
		string(attributes): {`"<v>"`},
	} {
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s is not in %s", want, text)
			}
		}
	}
}
