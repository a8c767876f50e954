// Package topic knows what MQTT topic names and topic filters are: which are
// legal, which match, and which of many subscriptions match a name. It
// compares bytes, without any normalization [MQTT-4.7.3-4]. Apart from [Tree],
// which locks itself, everything is a function of its arguments; nothing here
// blocks on anything but that lock, and no input makes it panic.
package topic

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits bounds topic names and filters beyond what the protocol does. Zero
// fields mean the protocol's maximum, 65,535 bytes [MQTT-4.7.3-3]. Of a shared
// subscription's filter they bound the part after the share name.
type Limits struct {
	MaxBytes  int // bytes of UTF-8
	MaxLevels int // parts between slashes, empty ones included
}

// maxBytes is the protocol's own maximum.
const maxBytes = 65535

// Error says why a topic name or filter is not legal. As a reason code it is
// Topic Name invalid or Topic Filter invalid, whichever it was used as.
type Error struct {
	// Clause is the conformance statement, for example "MQTT-4.7.1-1", or
	// empty where a limit of the server's is exceeded.
	Clause  string
	Message string // constant text
}

// Error implements error.
func (e *Error) Error() string {
	if e.Clause == "" {
		return e.Message
	}
	return fmt.Sprintf("%s [%s]", e.Message, e.Clause)
}

// text is how topics come: as strings where they are kept, as bytes where
// they are passed through.
type text interface{ ~string | ~[]byte }

// ValidateName returns an [*Error] unless name is a legal topic name within l:
// not empty, well-formed UTF-8 without U+0000, and without wildcards.
func ValidateName[T text](name T, l Limits) error {
	for i := 0; i < len(name); i++ {
		if c := name[i]; c == '+' || c == '#' { // [MQTT-4.7.0-1]
			return &Error{"MQTT-4.7.0-1", "the topic name contains a wildcard"}
		}
	}
	return validate(name, l)
}

// ValidateFilter returns an [*Error] unless filter is a legal topic filter
// within l. One that begins with "$share/" must be a legal shared
// subscription, whose inner filter is judged like any other.
func ValidateFilter(filter string, l Limits) error {
	if len(filter) > maxBytes {
		return &Error{"MQTT-4.7.3-3", "the topic filter is longer than 65,535 bytes"}
	}
	_, inner, shared, err := ParseShared(filter)
	if err != nil {
		return err
	}
	if shared {
		if err := validate(filter, Limits{}); err != nil {
			return err
		}
	}
	if err := validate(inner, l); err != nil {
		return err
	}
	for rest, more := inner, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		switch {
		case strings.IndexByte(level, '#') >= 0 && (level != "#" || more): // [MQTT-4.7.1-1]
			return &Error{"MQTT-4.7.1-1", "# is not alone in the last level of the topic filter"}
		case strings.IndexByte(level, '+') >= 0 && level != "+": // [MQTT-4.7.1-2]
			return &Error{"MQTT-4.7.1-2", "+ is not alone in a level of the topic filter"}
		}
	}
	return nil
}

// validate checks what holds for names and filters alike.
func validate[T text](s T, l Limits) error {
	switch {
	case len(s) == 0:
		return &Error{"MQTT-4.7.3-1", "the topic is empty"}
	case len(s) > maxBytes:
		return &Error{"MQTT-4.7.3-3", "the topic is longer than 65,535 bytes"}
	case l.MaxBytes > 0 && len(s) > l.MaxBytes:
		return &Error{"", "the topic is longer than the server allows"}
	}
	levels := 1
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case c == 0:
			return &Error{"MQTT-4.7.3-2", "the topic contains U+0000"}
		case c == '/':
			levels++
			i++
		case c < utf8.RuneSelf:
			i++
		default:
			r, n := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
			if r == utf8.RuneError && n == 1 {
				return &Error{"MQTT-1.5.4-1", "the topic is not well-formed UTF-8"}
			}
			i += n
		}
	}
	if l.MaxLevels > 0 && levels > l.MaxLevels {
		return &Error{"", "the topic has more levels than the server allows"}
	}
	return nil
}

// HasWildcard reports whether a legal filter contains a wildcard.
func HasWildcard(filter string) bool { return strings.ContainsAny(filter, "+#") }
