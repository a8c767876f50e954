package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// entry is one survivor that somebody has judged.
type entry struct {
	line       int
	fn, text   string
	equivalent bool   // no test can find it; else it is accepted as it is
	why        string // in one line
	matched    bool
}

// known is a package's list of judged survivors. Each is a function, below it
// the mutant as the report shows it, and below that why it lives, which begins
// with "equivalent:" or "accepted:" and may take several lines:
//
//	(*Queue).Add
//		n < limit → n <= limit
//		equivalent: n is never the limit, since ...
//
// Lines that begin with # are comments.
type known struct {
	file    string
	entries []*entry
}

// readKnown reads the list; a file that does not exist is an empty one.
func readKnown(file string) (*known, error) {
	k := &known{file: file}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		return nil, err
	}
	var e *entry
	sc := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; sc.Scan(); n++ {
		line := sc.Text()
		text := strings.TrimSpace(line)
		switch {
		case text == "" || strings.HasPrefix(text, "#"):
		case line == strings.TrimLeft(line, " \t"):
			e = &entry{line: n, fn: text}
			k.entries = append(k.entries, e)
		case e == nil:
			return nil, fmt.Errorf("%s:%d: begin with the name of a function, without indentation", file, n)
		case e.text == "":
			e.text = text
		case e.why == "":
			kind, why, ok := strings.Cut(text, ":")
			if !ok || kind != "equivalent" && kind != "accepted" {
				return nil, fmt.Errorf("%s:%d: say why, beginning with \"equivalent:\" or \"accepted:\"", file, n)
			}
			e.equivalent, e.why = kind == "equivalent", strings.TrimSpace(why)
		default:
			e.why += " " + text
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	for _, e := range k.entries {
		if e.why == "" {
			return nil, fmt.Errorf("%s:%d: give the mutant and why it lives", file, e.line)
		}
	}
	return k, nil
}

// apply notes at each site what is known about it.
func (k *known) apply(sites []*site) {
	for _, s := range sites {
		for _, e := range k.entries {
			if e.fn == s.fn && e.text == s.text() {
				s.known, e.matched = e, true
			}
		}
	}
}

// stale returns the entries that no mutant matches.
func (k *known) stale() []*entry {
	var out []*entry
	for _, e := range k.entries {
		if !e.matched {
			out = append(out, e)
		}
	}
	return out
}
