package arm_test

import (
	"net/http"
	"testing"
)

// If-Match and If-None-Match take lists and weak tags.
func TestListsOfEntityTags(t *testing.T) {
	f := newFixture(t)
	const path, body = ns + "/clients/tagged" + version, `{"properties":{"state":"Enabled","description":"a"}}`
	if status, _, text := f.do("PUT", path, body); status != http.StatusCreated {
		t.Fatal(status, text)
	}
	_, h, _ := f.do("GET", path, "")
	tag := h.Get("ETag")
	for list, named := range map[string]bool{
		tag: true, "W/" + tag: true, `"x", ` + tag: true, `"a,b",W/"y" , W/` + tag: true, " * ": true,
		`"x"`: false, `"x` + tag: false, `x, y`: false, `"a, ` + tag[1:len(tag)-1] + `"`: false, "W/": false,
	} {
		read, written, absent := http.StatusOK, http.StatusPreconditionFailed, http.StatusOK
		if named {
			read, written, absent = http.StatusNotModified, http.StatusOK, http.StatusPreconditionFailed
		}
		if status, _, _ := f.do("GET", path, "", "If-None-Match: "+list); status != read {
			t.Errorf("GET, If-None-Match: %s is answered with %d, want %d", list, status, read)
		}
		if status, _, _ := f.do("PUT", path, body, "If-Match: "+list); status != written {
			t.Errorf("PUT, If-Match: %s is answered with %d, want %d", list, status, written)
		}
		if status, _, _ := f.do("PUT", path, body, "If-None-Match: "+list); status != absent {
			t.Errorf("PUT, If-None-Match: %s is answered with %d, want %d", list, status, absent)
		}
	}
}
