package packet

import (
	"bytes"
	"unicode/utf8"
)

// ValidText reports whether b may be the content of a UTF-8 Encoded String:
// well formed (so without surrogates), without U+0000, and at most 65,535
// bytes long. Other control characters and U+FEFF are allowed.
func ValidText(b []byte) bool {
	return len(b) <= maxText && checkText(b) == nil
}

// maxText is the largest length that the two bytes before a string can tell.
const maxText = 1<<16 - 1

func checkText(b []byte) *Error {
	if bytes.IndexByte(b, 0) >= 0 {
		return malformed("MQTT-1.5.4-2", "a string contains U+0000")
	}
	if !utf8.Valid(b) {
		return malformed("MQTT-1.5.4-1", "a string is not well-formed UTF-8")
	}
	return nil
}

// hasWildcard reports whether a topic name contains '+' or '#'.
func hasWildcard(name []byte) bool {
	for _, c := range name {
		if c == '+' || c == '#' {
			return true
		}
	}
	return false
}
