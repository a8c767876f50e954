package packet

import (
	"bytes"
	"unicode/utf8"
)

// ValidText reports whether b may be the content of a UTF-8 Encoded String:
// well formed (so without surrogates), without U+0000, and at most 65,535
// bytes long. It may contain other control characters, which [reader.name] refuses,
// and U+FEFF.
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

// isPlain reports whether b is nothing but printable ASCII, as names nearly
// always are.
func isPlain(b []byte) bool {
	for _, c := range b {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// hasControl reports whether b, which is UTF-8, contains a control character,
// U+0001 to U+001F or U+007F to U+009F.
func hasControl(b []byte) bool {
	for i, c := range b {
		// In UTF-8 0xC2 begins U+0080 to U+00BF.
		if c < ' ' || c == 0x7F || c == 0xC2 && i+1 < len(b) && b[i+1] < 0xA0 {
			return true
		}
	}
	return false
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
