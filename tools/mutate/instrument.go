package main

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// What the instrumented source calls; helpers() declares it.
const (
	prefix = "mutant__"
	number = "\x00" // in an edit: the number of its site
	active = prefix + "On(" + number + ")"
)

// class orders edits at one place: what ends there, then what is replaced,
// then what begins.
type class int

const (
	closing class = iota
	replacing
	opening
)

// edit puts text in place of what is from at to to.
type edit struct {
	at, to int
	class  class
	text   string
	order  int // of its site
}

// instrument returns f's source with the mutants of sites in it. Lines keep
// their numbers.
func instrument(f *source, sites []*site) []byte {
	var edits []edit
	for i, s := range sites {
		if s.file != f {
			continue
		}
		for _, e := range s.edits {
			e.order = i
			e.text = strings.ReplaceAll(e.text, number, strconv.Itoa(s.id))
			edits = append(edits, e)
		}
	}
	slices.SortStableFunc(edits, func(a, b edit) int {
		if c := cmp.Compare(a.at, b.at); c != 0 {
			return c
		}
		if c := cmp.Compare(a.class, b.class); c != 0 {
			return c
		}
		// The sites of outer nodes come first: they begin first and end last.
		if a.class == closing {
			return cmp.Compare(b.order, a.order)
		}
		return cmp.Compare(a.order, b.order)
	})
	var out bytes.Buffer
	at := 0
	for _, e := range edits {
		if e.at < at {
			panic(fmt.Sprintf("%s: edits overlap at offset %d", f.path, e.at))
		}
		out.Write(f.text[at:e.at])
		out.WriteString(e.text)
		at = e.to
	}
	out.Write(f.text[at:])
	return out.Bytes()
}

// dropBroken leaves out the sites whose mutants do not compile.
func (p *pkg) dropBroken() error {
	for {
		for i, s := range p.sites {
			s.id = i + 1
		}
		fset := token.NewFileSet()
		var trees []*ast.File
		for _, f := range p.files {
			tree, err := parser.ParseFile(fset, f.path, instrument(f, p.sites), parser.SkipObjectResolution)
			if err != nil {
				return fmt.Errorf("instrumented source does not parse, which is a fault of this tool: %w", err)
			}
			trees = append(trees, tree)
		}
		tree, err := parser.ParseFile(fset, filepath.Join(p.dir, helperFile), p.helpers(), parser.SkipObjectResolution)
		if err != nil {
			return fmt.Errorf("helpers do not parse, which is a fault of this tool: %w", err)
		}
		errs := p.check(fset, append(trees, tree), nil)
		if len(errs) == 0 {
			return nil
		}
		before := len(p.sites)
		for _, e := range errs {
			p.drop(fset.Position(e.Pos), strings.Contains(e.Msg, "missing return"))
		}
		if len(p.sites) == before {
			return fmt.Errorf("instrumented source does not compile, which is a fault of this tool: %w", errs[0])
		}
		p.dropped += before - len(p.sites)
	}
}

// drop removes the sites that an error at pos may come from: on its line those
// that pass operands to a function, or else all; of a function that lost its
// end, those of its loops.
func (p *pkg) drop(pos token.Position, noReturn bool) {
	remove := func(match func(*site) bool) bool {
		n := len(p.sites)
		p.sites = slices.DeleteFunc(p.sites, match)
		return len(p.sites) < n
	}
	if noReturn {
		from := 0
		for _, f := range p.files {
			if f.path != pos.Filename {
				continue
			}
			ast.Inspect(f.tree, func(n ast.Node) bool {
				switch n.(type) {
				case *ast.FuncDecl, *ast.FuncLit:
					if p.fset.Position(n.End()).Line == pos.Line {
						from = max(from, p.fset.Position(n.Pos()).Line)
					}
				}
				return true
			})
		}
		if remove(func(s *site) bool {
			return s.kind == loop && s.file.path == pos.Filename && s.line >= from && s.line <= pos.Line
		}) {
			return
		}
	}
	here := func(s *site) bool { return s.file.path == pos.Filename && s.line == pos.Line }
	if remove(func(s *site) bool {
		switch s.kind {
		case boundary, arith, assign, incdec, minus:
			return here(s)
		}
		return false
	}) {
		return
	}
	if !remove(here) {
		// An expression over several lines: its operator may be on another one.
		remove(func(s *site) bool {
			return s.file.path == pos.Filename && s.line >= pos.Line-3 && s.line <= pos.Line+3
		})
	}
}

// helperFile is the name of the file that is added to the package. It sorts
// last and is never written into the tree.
const helperFile = "zz_mutant_helpers.go"

// The environment variables that the instrumented package reads.
const (
	envActive = "ROLLCALL_MUTANT"         // the active mutant's number
	envReach  = "ROLLCALL_MUTANT_REACHED" // a file with a byte for each mutant, set when it is reached
)

// helpers is the source of what the mutants call.
func (p *pkg) helpers() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "package %s\n", p.name)
	b.WriteString(`
import (
	mutant__cmp "cmp"
	mutant__os "os"
	mutant__strconv "strconv"
	mutant__syscall "syscall"
)

var mutant__active, mutant__reached = mutant__start()

func mutant__start() (int, []byte) {
	n, _ := mutant__strconv.Atoi(mutant__os.Getenv("` + envActive + `"))
	name := mutant__os.Getenv("` + envReach + `")
	if name == "" {
		return n, nil
	}
	f, err := mutant__os.OpenFile(name, mutant__os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		panic(err)
	}
	b, err := mutant__syscall.Mmap(int(f.Fd()), 0, int(st.Size()), mutant__syscall.PROT_READ|mutant__syscall.PROT_WRITE, mutant__syscall.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	return n, b
}

func mutant__On(n int) bool {
	if mutant__reached != nil {
		mutant__reached[n] = 1
	}
	return n == mutant__active
}

type mutant__integer interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uintptr
}

type mutant__number interface {
	mutant__integer | ~float32 | ~float64
}

func mutant__Neg[T mutant__number](n int, x T) T {
	if mutant__On(n) {
		return x
	}
	return -x
}
`)
	for _, op := range []token.Token{token.LSS, token.LEQ, token.GTR, token.GEQ} {
		fmt.Fprintf(&b, `
func mutant__%s[T mutant__cmp.Ordered](n int, x, y T) bool {
	if mutant__On(n) {
		return x %s y
	}
	return x %s y
}
`, helper[op], widened[op], op)
	}
	for _, op := range []token.Token{
		token.ADD, token.SUB, token.MUL, token.QUO, token.REM, token.AND, token.OR, token.XOR, token.AND_NOT, token.SHL, token.SHR,
	} {
		constraint, typeParams, y := "number", "", "T"
		switch op {
		case token.REM, token.AND, token.OR, token.XOR, token.AND_NOT:
			constraint = "integer"
		case token.SHL, token.SHR:
			constraint, typeParams, y = "integer", ", S mutant__integer", "S"
		}
		fmt.Fprintf(&b, `
func mutant__%[1]s[T mutant__%[2]s%[3]s](n int, x T, y %[4]s) T {
	if mutant__On(n) {
		return x %[5]s y
	}
	return x %[6]s y
}

func mutant__At%[1]s[T mutant__%[2]s%[3]s](n int, x *T, y %[4]s) {
	if mutant__On(n) {
		*x %[5]s= y
	} else {
		*x %[6]s= y
	}
}

func mutant__Map%[1]s[M ~map[K]T, K comparable, T mutant__%[2]s%[3]s](n int, m M, k K, y %[4]s) {
	if mutant__On(n) {
		m[k] %[5]s= y
	} else {
		m[k] %[6]s= y
	}
}
`, helper[op], constraint, typeParams, y, swapped[op], op)
	}
	return b.Bytes()
}
