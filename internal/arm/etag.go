package arm

import (
	"strconv"
	"strings"

	"rollcall/internal/store"
)

func etag(r store.Revision) string { return `"` + strconv.FormatUint(uint64(r), 10) + `"` }

// lists reports whether the values of an If-Match or If-None-Match header name
// an entity tag of ours or, by *, any. Each value is a list (RFC 9110, 13.1.1).
//
// Tags are compared weakly in both headers, though RFC 9110 wants it strongly in
// If-Match: proxies that compress make a tag weak, and a revision says as much
// about the resource after that as before.
func lists(values []string, tag string) bool {
	for _, rest := range values {
		for {
			rest = strings.TrimLeft(rest, " \t,")
			if rest == "" {
				break
			}
			var one string
			if one, rest = nextTag(rest); one == "*" || strings.TrimPrefix(one, "W/") == tag {
				return true
			}
		}
	}
	return false
}

// nextTag cuts the first member off a list of entity tags, whose quoted part may
// hold commas.
func nextTag(list string) (tag, rest string) {
	opaque := strings.TrimPrefix(list, "W/")
	if strings.HasPrefix(opaque, `"`) {
		if end := strings.IndexByte(opaque[1:], '"'); end >= 0 {
			n := len(list) - len(opaque) + end + 2
			return list[:n], list[n:]
		}
	}
	tag, rest, _ = strings.Cut(list, ",")
	return strings.TrimRight(tag, " \t"), rest
}
