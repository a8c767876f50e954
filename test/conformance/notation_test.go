package conformance

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// Packets are written as bytes, in hexadecimal, with a few marks that count
// for the reader:
//
//	30 0A        bytes
//	61*300       a byte, so many times
//	[ … ] { … }  what is inside, after its length as a Variable Byte Integer
//	"t"          a text after its length as two bytes; \x00 and the like are escapes
//	't'          the bytes of a text
//	~            in texts: four letters that no other conversation has
//	<p>          a Packet Identifier: the server's choice where it is first met, the same from then on
//	"*n"         a text of the server's choice where it is first met, the same from then on
//	u32:2..5     a number of four bytes within the bounds
//	?? ??*7      any byte, or so many of them
type node struct {
	kind byte // one of the below
	b    []byte
	list []node
	name string
	n    int
	low  uint32
	high uint32
}

const (
	literal  = 'b'
	group    = '['
	anything = '?'
	number   = 'u'
	ident    = '<'
	named    = 'n'
)

// compile reads the notation. unique stands for ~.
func compile(text, unique string) ([]node, error) {
	p := &compiler{rest: text, unique: unique}
	list, err := p.list(0)
	if err != nil {
		return nil, fmt.Errorf("%w in %q before %q", err, text, p.rest)
	}
	return list, nil
}

type compiler struct{ rest, unique string }

func (p *compiler) list(end byte) (list []node, err error) {
	for {
		p.rest = strings.TrimLeft(p.rest, " \t")
		if p.rest == "" {
			if end != 0 {
				return nil, errors.New("a bracket is not closed")
			}
			return list, nil
		}
		c := p.rest[0]
		if end != 0 && c == end {
			p.rest = p.rest[1:]
			return list, nil
		}
		n, err := p.node(c)
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
}

func (p *compiler) node(c byte) (node, error) {
	switch {
	case c == '[' || c == '{':
		p.rest = p.rest[1:]
		list, err := p.list(c + 2)
		return node{kind: group, list: list}, err
	case c == '"' || c == '\'':
		return p.text(c)
	case c == '<':
		name, rest, ok := strings.Cut(p.rest[1:], ">")
		p.rest = rest
		if !ok {
			return node{}, errors.New("no >")
		}
		return node{kind: ident, name: name}, nil
	}
	word, rest := p.rest, ""
	if i := strings.IndexAny(p.rest, " \t[]{}<\"'"); i >= 0 {
		word, rest = p.rest[:i], p.rest[i:]
	}
	p.rest = rest
	if span, ok := strings.CutPrefix(word, "u32:"); ok {
		var low, high uint32
		if _, err := fmt.Sscanf(span, "%d..%d", &low, &high); err != nil {
			return node{}, err
		}
		return node{kind: number, low: low, high: high}, nil
	}
	word, times, repeated := strings.Cut(word, "*")
	n := 1
	if repeated {
		var err error
		if n, err = strconv.Atoi(times); err != nil {
			return node{}, err
		}
	}
	if word == "??" {
		return node{kind: anything, n: n}, nil
	}
	b, err := hex.DecodeString(word)
	return node{kind: literal, b: bytes.Repeat(b, n)}, err
}

func (p *compiler) text(quote byte) (node, error) {
	i := 1
	for i < len(p.rest) && p.rest[i] != quote {
		if p.rest[i] == '\\' {
			i++
		}
		i++
	}
	if i >= len(p.rest) {
		return node{}, errors.New("a text does not end")
	}
	s, err := strconv.Unquote(`"` + p.rest[1:i] + `"`)
	if err != nil {
		return node{}, err
	}
	p.rest = p.rest[i+1:]
	s = strings.ReplaceAll(s, "~", p.unique)
	if quote == '\'' {
		return node{kind: literal, b: []byte(s)}, nil
	}
	if name, ok := strings.CutPrefix(s, "*"); ok {
		return node{kind: named, name: name}, nil
	}
	return node{kind: literal, b: append([]byte{byte(len(s) >> 8), byte(len(s))}, s...)}, nil
}

// names are the server's choices that a conversation has met.
type names map[string][]byte

// encode appends the bytes to send.
func (n names) encode(dst []byte, list []node) ([]byte, error) {
	for i := range list {
		switch d := &list[i]; d.kind {
		case literal:
			dst = append(dst, d.b...)
		case group:
			body, err := n.encode(nil, d.list)
			if err != nil {
				return nil, err
			}
			dst = append(appendVarint(dst, len(body)), body...)
		case ident, named:
			b, ok := n[d.name]
			if !ok {
				return nil, fmt.Errorf("%s is not known yet", d.name)
			}
			dst = append(dst, b...)
		default:
			return nil, errors.New("a pattern cannot be sent")
		}
	}
	return dst, nil
}

func appendVarint(dst []byte, n int) []byte {
	for ; n >= 0x80; n >>= 7 {
		dst = append(dst, byte(n)|0x80)
	}
	return append(dst, byte(n))
}

// varint reads a Variable Byte Integer; size is 0 if b is none or does not
// have all of it, or more than it needs.
func varint(b []byte) (n, size int) {
	for i := 0; i < 4 && i < len(b); i++ {
		n |= int(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			if b[i] == 0 && i > 0 {
				return 0, 0
			}
			return n, i + 1
		}
	}
	return 0, 0
}

var errDiffers = errors.New("differs")

// match reports nil if b is exactly what the list says.
func (n names) match(list []node, b []byte) error {
	rest, err := n.walk(list, b)
	if err == nil && len(rest) > 0 {
		return errDiffers
	}
	return err
}

func (n names) walk(list []node, b []byte) (rest []byte, err error) {
	for i := range list {
		if b, err = n.step(&list[i], b); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (n names) step(d *node, b []byte) ([]byte, error) {
	switch d.kind {
	case literal:
		if !bytes.HasPrefix(b, d.b) {
			return nil, errDiffers
		}
		return b[len(d.b):], nil
	case anything:
		if len(b) < d.n {
			return nil, errDiffers
		}
		return b[d.n:], nil
	case number:
		if len(b) < 4 {
			return nil, errDiffers
		}
		v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		if v < d.low || v > d.high {
			return nil, errDiffers
		}
		return b[4:], nil
	case ident, named:
		return n.choice(d, b)
	}
	size, at := varint(b)
	if at == 0 || len(b) < at+size {
		return nil, errDiffers
	}
	body, rest := b[at:at+size], b[at+size:]
	return rest, n.match(d.list, body)
}

func (n names) choice(d *node, b []byte) ([]byte, error) {
	size := 2
	if len(b) < 2 {
		return nil, errDiffers
	}
	if d.kind == named {
		size += int(b[0])<<8 | int(b[1])
	}
	if len(b) < size || size == 2 && b[0] == 0 && b[1] == 0 || !utf8.Valid(b[2:size]) {
		return nil, errDiffers
	}
	if known, ok := n[d.name]; ok && !bytes.Equal(known, b[:size]) {
		return nil, errDiffers
	}
	n[d.name] = bytes.Clone(b[:size])
	return b[size:], nil
}

// TestNotation checks the notation itself: what must not match does not.
func TestNotation(t *testing.T) {
	for _, c := range []struct {
		text string
		b    string
		ok   bool
	}{
		{`30 [ "t" {} 'x' ]`, "30 05 0001 74 00 78", true},
		{`30 [ "t" {} 'x' ]`, "30 05 0001 74 00 79", false},
		{`30 [ "t" {} 'x' ]`, "30 06 0001 74 00 78 78", false},
		{`30 [ "t" {} 'x' ]`, "30 85 00 0001 74 00 78", false},
		{`E0 [ 81 {1F "*why"} ]`, "E0 06 81 04 1F 0001 61", true},
		{`E0 [ 81 {1F "*why"} ]`, "E0 05 81 03 1F 0000", false},
		{`E0 [ 81 {1F "*why"} ]`, "E0 06 81 04 1F 0001 FF", false},
		{`E0 [ 81 {1F "*why"} ]`, "E0 01 81", false},
		{`40 [ <p> ]`, "40 02 0000", false},
		{`40 [ <p> <p> ]`, "40 04 0001 0002", false},
		{`40 [ <p> <p> ]`, "40 04 0001 0001", true},
		{`30 [ u32:2..3 ]`, "30 04 00000002", true},
		{`30 [ u32:2..3 ]`, "30 04 00000004", false},
		{`30 [ "*n" ]`, "30 03 0001 61", true},
		{`30 [ "*n" ]`, "30 02 0000", false},
		{`30 [ ??*3 ]`, "30 03 000161", true},
		{`30 [ ??*3 ]`, "30 02 0001", false},
	} {
		list, err := compile(c.text, "")
		if err != nil {
			t.Fatal(err)
		}
		raw, err := compile(c.b, "")
		if err != nil {
			t.Fatal(err)
		}
		b, err := names{}.encode(nil, raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := (names{}).match(list, b); (err == nil) != c.ok {
			t.Errorf("%s against %s: %v", c.text, c.b, err)
		}
	}
	for _, bad := range []string{"3", "30 [", "zz", `"open`, "<p", "u32:x", "61*x"} {
		if _, err := compile(bad, ""); err == nil {
			t.Errorf("%s compiles", bad)
		}
	}
}
