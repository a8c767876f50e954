package arm

import (
	"strings"

	"rollcall/internal/fault"
	"rollcall/internal/filter"
)

// Bounds of $filter.
const (
	maxFilter = 2048 // bytes
	maxDepth  = 32   // of parentheses and nots
)

// parseFilter compiles a filter on names:
//
//	or      = and *( "or" and )
//	and     = term *( "and" term )
//	term    = "not" term | "(" or ")" | "contains" "(" "name" "," text ")"
//	        | "name" ( "eq" | "ne" ) text | text ( "eq" | "ne" ) "name"
//	text    = "'" *( any but "'" | "''" ) "'"
//
// Keywords and the property's name are taken in any case. Texts are compared
// ignoring case. Errors are fault.Errors.
func parseFilter(s string) (func(name string) bool, error) {
	if len(s) > maxFilter {
		return nil, wrongFilter("The filter has %d bytes; at most %d are taken.", len(s), maxFilter)
	}
	p := &filterParser{rest: s}
	if err := p.next(); err != nil {
		return nil, err
	}
	f, err := p.or()
	if err != nil {
		return nil, err
	}
	if p.token.kind != end {
		return nil, p.unexpected("the end")
	}
	return f, nil
}

func wrongFilter(format string, args ...any) error { return fault.At("$filter", format, args...) }

type predicate = func(name string) bool

type tokenKind uint8

const (
	end    tokenKind = iota
	word             // a keyword or a property
	text             // a literal
	symbol           // ( ) ,
)

type filterToken struct {
	kind tokenKind
	text string // words in lower case
}

type filterParser struct {
	rest  string
	token filterToken
	depth int
}

func (p *filterParser) or() (predicate, error) { return p.chain("or", p.and, false) }

func (p *filterParser) and() (predicate, error) { return p.chain("and", p.term, true) }

// chain parses operands joined by a keyword, all of which must hold, or any.
func (p *filterParser) chain(keyword string, operand func() (predicate, error), all bool) (predicate, error) {
	first, err := operand()
	if err != nil {
		return nil, err
	}
	list := []predicate{first}
	for p.token.kind == word && p.token.text == keyword {
		if err := p.next(); err != nil {
			return nil, err
		}
		f, err := operand()
		if err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	if len(list) == 1 {
		return first, nil
	}
	return func(name string) bool {
		for _, f := range list {
			if f(name) != all {
				return !all
			}
		}
		return all
	}, nil
}

func (p *filterParser) term() (predicate, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, wrongFilter("The filter is nested too deeply.")
	}
	defer func() { p.depth-- }()
	switch t := p.token; {
	case t.kind == word && t.text == "not":
		if err := p.next(); err != nil {
			return nil, err
		}
		f, err := p.term()
		if err != nil {
			return nil, err
		}
		return func(name string) bool { return !f(name) }, nil
	case t.kind == symbol && t.text == "(":
		if err := p.next(); err != nil {
			return nil, err
		}
		f, err := p.or()
		if err != nil {
			return nil, err
		}
		return f, p.expect(symbol, ")")
	case t.kind == word && t.text == "contains":
		return p.contains()
	}
	return p.compare()
}

func (p *filterParser) contains() (predicate, error) {
	var part string
	for _, step := range []func() error{
		p.next,
		func() error { return p.expect(symbol, "(") },
		func() error { return p.expect(word, "name") },
		func() error { return p.expect(symbol, ",") },
		func() (err error) { part, err = p.literal(); return err },
		func() error { return p.expect(symbol, ")") },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	part = filter.Fold(part)
	return func(name string) bool { return strings.Contains(filter.Fold(name), part) }, nil
}

func (p *filterParser) compare() (predicate, error) {
	var value string
	var err error
	flipped := p.token.kind == text
	if flipped {
		value, err = p.literal()
	} else {
		err = p.expect(word, "name")
	}
	if err != nil {
		return nil, err
	}
	op := p.token
	if op.kind != word || op.text != "eq" && op.text != "ne" {
		return nil, p.unexpected("eq or ne")
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	if flipped {
		err = p.expect(word, "name")
	} else {
		value, err = p.literal()
	}
	if err != nil {
		return nil, err
	}
	value = filter.Fold(value)
	return func(name string) bool { return (filter.Fold(name) == value) == (op.text == "eq") }, nil
}

func (p *filterParser) literal() (string, error) {
	if p.token.kind != text {
		return "", p.unexpected("a text in single quotes")
	}
	s := p.token.text
	return s, p.next()
}

func (p *filterParser) expect(k tokenKind, s string) error {
	if p.token.kind != k || p.token.text != s {
		return p.unexpected("'" + s + "'")
	}
	return p.next()
}

func (p *filterParser) unexpected(wanted string) error {
	got := "'" + p.token.text + "'"
	if p.token.kind == end {
		got = "the end"
	}
	return wrongFilter("The filter has %.64s where %s is expected; it may use name, contains, eq, ne, and, or, not.", got, wanted)
}

// next reads one token.
func (p *filterParser) next() error {
	p.rest = strings.TrimLeft(p.rest, " \t\r\n")
	if p.rest == "" {
		p.token = filterToken{}
		return nil
	}
	switch c := p.rest[0]; {
	case c == '(' || c == ')' || c == ',':
		p.token, p.rest = filterToken{symbol, p.rest[:1]}, p.rest[1:]
		return nil
	case c == '\'':
		return p.quoted()
	}
	n := strings.IndexAny(p.rest, " \t\r\n(),'")
	if n < 0 {
		n = len(p.rest)
	}
	p.token, p.rest = filterToken{word, strings.ToLower(p.rest[:n])}, p.rest[n:]
	return nil
}

func (p *filterParser) quoted() error {
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		if p.rest[i] != '\'' {
			b.WriteByte(p.rest[i])
			continue
		}
		if i+1 < len(p.rest) && p.rest[i+1] == '\'' {
			b.WriteByte('\'')
			i++
			continue
		}
		p.token, p.rest = filterToken{text, b.String()}, p.rest[i+1:]
		return nil
	}
	return wrongFilter("The filter has a text without its closing quote.")
}
