package main

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
)

// kind is a family of mutants.
type kind string

const (
	boundary kind = "boundary" // < becomes <=, and so on
	negation kind = "negation" // == becomes !=, ok becomes !ok
	logic    kind = "logic"    // && becomes ||
	arith    kind = "arith"    // + becomes -, << becomes >>
	assign   kind = "assign"   // += becomes -=
	incdec   kind = "incdec"   // ++ becomes --
	loop     kind = "loop"     // break becomes continue
	minus    kind = "minus"    // -x becomes x
	remove   kind = "remove"   // a call whose result nobody takes is left out
)

var allKinds = []string{
	string(boundary), string(negation), string(logic), string(arith), string(assign),
	string(incdec), string(loop), string(minus), string(remove),
}

func isKind(s string) bool { return slices.Contains(allKinds, s) }

// site is one mutant: a place, and what is put there instead.
type site struct {
	id    int // from 1; what the environment variable names
	file  *source
	line  int
	pos   token.Pos
	kind  kind
	fn    string // the function around it, such as (*Grid).Publish
	from  string // source text, on one line
	to    string
	nth   int // which of `of` mutants with the same function and texts; from 1
	of    int
	edits []edit
	known *entry // what is written down about it, or nil
	res   result
}

// text is what a list of known survivors says of the mutant, after its function.
func (s *site) text() string {
	t := s.from + " → " + s.to
	if s.of > 1 {
		t += fmt.Sprintf(" [%d]", s.nth)
	}
	return t
}

func (s *site) String() string {
	return fmt.Sprintf("%s:%d %s in %s: %s", s.file.name, s.line, s.kind, s.fn, s.text())
}

// choose returns the mutants that the options ask for, in order of place.
func choose(sites []*site, o options) []*site {
	var c []*site
	for _, s := range sites {
		if o.kinds[s.kind] && (o.match == nil || o.match.MatchString(s.String())) {
			c = append(c, s)
		}
	}
	if o.sample == 0 || o.sample >= len(c) {
		return c
	}
	r := rand.New(rand.NewPCG(o.seed, 0))
	r.Shuffle(len(c), func(i, j int) { c[i], c[j] = c[j], c[i] })
	c = c[:o.sample]
	sort.Slice(c, func(i, j int) bool { return c[i].id < c[j].id })
	return c
}

// findSites finds everything in the package that can be mutated and still
// compiles.
func (p *pkg) findSites() error {
	for _, f := range p.files {
		if ast.IsGenerated(f.tree) {
			continue
		}
		w := walker{p: p, f: f}
		ast.Walk(&w, f.tree)
	}
	if err := p.dropBroken(); err != nil {
		return err
	}
	type key struct{ fn, from, to string }
	same := map[key][]*site{}
	for i, s := range p.sites {
		s.id = i + 1
		k := key{s.fn, s.from, s.to}
		same[k] = append(same[k], s)
	}
	for _, group := range same {
		for i, s := range group {
			s.nth, s.of = i+1, len(group)
		}
	}
	if len(p.sites) == 0 {
		return fmt.Errorf("%s has nothing to mutate", p.path)
	}
	return nil
}

// walker visits a file and adds a site for each mutant. A site of a node is
// added before those of the nodes in it.
type walker struct {
	p     *pkg
	f     *source
	stack []ast.Node // from the file down to the node's parent
}

func (w *walker) Visit(n ast.Node) ast.Visitor {
	if n == nil {
		w.stack = w.stack[:len(w.stack)-1]
		return nil
	}
	switch n := n.(type) {
	case *ast.IfStmt:
		w.condition(n.Cond)
	case *ast.ForStmt:
		w.condition(n.Cond)
	case *ast.CaseClause:
		if sw, ok := w.parent(1).(*ast.SwitchStmt); ok && sw.Tag == nil {
			for _, e := range n.List {
				w.condition(e)
			}
		}
	case *ast.BinaryExpr:
		w.binary(n)
	case *ast.UnaryExpr:
		w.unary(n)
	case *ast.IncDecStmt:
		w.incDec(n)
	case *ast.AssignStmt:
		w.assign(n)
	case *ast.BranchStmt:
		w.branch(n)
	case *ast.ExprStmt:
		if call, ok := n.X.(*ast.CallExpr); ok {
			w.call(n, call)
		}
	case *ast.DeferStmt:
		w.call(n, n.Call)
	}
	w.stack = append(w.stack, n)
	return w
}

// parent is the node's i-th parent; the nearest is 0.
func (w *walker) parent(i int) ast.Node {
	if i >= len(w.stack) {
		return nil
	}
	return w.stack[len(w.stack)-1-i]
}

// add adds a mutant for n, whose text from becomes to.
func (w *walker) add(k kind, at token.Pos, from, to string, edits ...edit) {
	s := &site{file: w.f, pos: at, line: w.p.fset.Position(at).Line, kind: k, fn: w.function(), from: oneLine(from), to: oneLine(to), edits: edits}
	w.p.sites = append(w.p.sites, s)
}

// function names what is around the node.
func (w *walker) function() string {
	for _, n := range w.stack {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv == nil || len(n.Recv.List) == 0 {
				return n.Name.Name
			}
			t := n.Recv.List[0].Type
			star := ""
			if s, ok := t.(*ast.StarExpr); ok {
				t, star = s.X, "*"
			}
			switch x := t.(type) {
			case *ast.IndexExpr:
				t = x.X
			case *ast.IndexListExpr:
				t = x.X
			}
			if star == "" {
				return w.src(t) + "." + n.Name.Name
			}
			return "(*" + w.src(t) + ")." + n.Name.Name
		case *ast.ValueSpec:
			return "var " + n.Names[0].Name
		}
	}
	return w.f.tree.Name.Name
}

func (w *walker) src(n ast.Node) string { return w.between(n.Pos(), n.End()) }

func (w *walker) between(from, to token.Pos) string {
	return string(w.f.text[w.offset(from):w.offset(to)])
}

func (w *walker) offset(p token.Pos) int { return w.p.fset.Position(p).Offset }

// before and after put text around n, outside of what is put around the nodes
// in it; instead replaces n tokens' text.
func (w *walker) before(n ast.Node, text string) edit {
	return edit{at: w.offset(n.Pos()), to: w.offset(n.Pos()), class: opening, text: text}
}

func (w *walker) after(n ast.Node, text string) edit {
	return edit{at: w.offset(n.End()), to: w.offset(n.End()), class: closing, text: text}
}

func (w *walker) instead(at token.Pos, was, text string) edit {
	return edit{at: w.offset(at), to: w.offset(at) + len(was), class: replacing, text: text}
}

// constant says whether the compiler knows e's value.
func (w *walker) constant(e ast.Expr) bool { return w.p.info.Types[e].Value != nil }

// looseShift says whether e has a shift of an untyped constant, which takes
// its type from what is around it.
func (w *walker) looseShift(e ast.Expr) bool {
	found := false
	ast.Inspect(e, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			return false
		case *ast.BinaryExpr:
			if (n.Op == token.SHL || n.Op == token.SHR) && w.constant(n.X) && !w.constant(n) {
				found = true
			}
		}
		return true
	})
	return found
}

func (w *walker) basic(e ast.Expr) types.BasicInfo {
	t := w.p.info.Types[e].Type
	if t == nil {
		return 0
	}
	if b, ok := t.Underlying().(*types.Basic); ok {
		return b.Info()
	}
	return 0
}

// condition negates e, a condition or a part of one, unless it is a comparison
// or a logical expression, which are mutated on their own.
func (w *walker) condition(e ast.Expr) {
	if e == nil {
		return
	}
	x := ast.Unparen(e)
	switch x := x.(type) {
	case *ast.BinaryExpr:
		return
	case *ast.UnaryExpr:
		if x.Op == token.NOT {
			return
		}
	}
	if w.constant(x) || w.basic(x)&types.IsBoolean == 0 {
		return
	}
	s := w.src(x)
	from, to := s, "!"+s
	if u, ok := w.parent(0).(*ast.UnaryExpr); ok && u.Op == token.NOT {
		from, to = "!"+s, s
	}
	w.add(negation, e.Pos(), from, to, w.before(e, "(("), w.after(e, ") != "+active+")"))
}

// What each operator becomes, by kind; helper names the generic function
// that does either.
var (
	negated = map[token.Token]token.Token{
		token.EQL: token.NEQ, token.NEQ: token.EQL, token.LSS: token.GEQ, token.GEQ: token.LSS,
		token.GTR: token.LEQ, token.LEQ: token.GTR,
	}
	widened = map[token.Token]token.Token{
		token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR,
	}
	swapped = map[token.Token]token.Token{
		token.ADD: token.SUB, token.SUB: token.ADD, token.MUL: token.QUO, token.QUO: token.MUL, token.REM: token.MUL,
		token.AND: token.OR, token.OR: token.AND, token.XOR: token.AND, token.AND_NOT: token.AND,
		token.SHL: token.SHR, token.SHR: token.SHL,
	}
	// assignOp maps an assignment to the operator in it.
	assignOp = map[token.Token]token.Token{
		token.ADD_ASSIGN: token.ADD, token.SUB_ASSIGN: token.SUB, token.MUL_ASSIGN: token.MUL, token.QUO_ASSIGN: token.QUO,
		token.REM_ASSIGN: token.REM, token.AND_ASSIGN: token.AND, token.OR_ASSIGN: token.OR, token.XOR_ASSIGN: token.XOR,
		token.AND_NOT_ASSIGN: token.AND_NOT, token.SHL_ASSIGN: token.SHL, token.SHR_ASSIGN: token.SHR,
	}
	helper = map[token.Token]string{
		token.LSS: "Lss", token.LEQ: "Leq", token.GTR: "Gtr", token.GEQ: "Geq",
		token.ADD: "Add", token.SUB: "Sub", token.MUL: "Mul", token.QUO: "Quo", token.REM: "Rem",
		token.AND: "And", token.OR: "Or", token.XOR: "Xor", token.AND_NOT: "AndNot", token.SHL: "Shl", token.SHR: "Shr",
	}
)

func (w *walker) binary(n *ast.BinaryExpr) {
	if w.constant(n) {
		return
	}
	from := w.src(n)
	with := func(op token.Token) string {
		return w.between(n.Pos(), n.OpPos) + op.String() + w.between(n.OpPos+token.Pos(len(n.Op.String())), n.End())
	}
	call := func(op token.Token) []edit {
		return []edit{w.before(n, prefix+helper[op]+"("+number+", "), w.instead(n.OpPos, op.String(), ","), w.after(n, ")")}
	}
	switch n.Op {
	case token.LAND, token.LOR:
		other := token.LOR
		if n.Op == token.LOR {
			other = token.LAND
		}
		// By De Morgan: with m, !(!a && !b) is a || b, and b is still not
		// evaluated when a decides.
		w.add(logic, n.OpPos, from, with(other),
			w.before(n, "((("), w.after(n.X, ") != "+active), w.before(n.Y, "("), w.after(n, ") != "+active+") != "+active+")"))
		w.condition(n.X)
		w.condition(n.Y)
		return
	case token.EQL, token.NEQ, token.LSS, token.LEQ, token.GTR, token.GEQ:
		w.add(negation, n.OpPos, from, with(negated[n.Op]), w.before(n, "(("), w.after(n, ") != "+active+")"))
		if op, ok := widened[n.Op]; ok && !w.looseShift(n.X) && !w.looseShift(n.Y) {
			w.add(boundary, n.OpPos, from, with(op), call(n.Op)...)
		}
		return
	}
	op, ok := swapped[n.Op]
	if !ok || w.basic(n)&types.IsNumeric == 0 && !isTypeParam(w.p.info.Types[n].Type) || w.looseShift(n) {
		return
	}
	if w.inString() {
		return
	}
	w.add(arith, n.OpPos, from, with(op), call(n.Op)...)
}

func isTypeParam(t types.Type) bool {
	_, ok := t.(*types.TypeParam)
	return ok
}

// inString says whether the node is below a concatenation of strings.
func (w *walker) inString() bool {
	for i := range w.stack {
		switch n := w.parent(i).(type) {
		case *ast.BinaryExpr:
			if w.basic(n)&types.IsString != 0 {
				return true
			}
		case *ast.ParenExpr:
		default:
			return false
		}
	}
	return false
}

func (w *walker) unary(n *ast.UnaryExpr) {
	switch n.Op {
	case token.NOT:
		w.stack = append(w.stack, n)
		w.condition(n.X)
		w.stack = w.stack[:len(w.stack)-1]
	case token.SUB:
		if !w.constant(n) && w.basic(n)&types.IsNumeric != 0 && !w.looseShift(n.X) {
			w.add(minus, n.OpPos, w.src(n), w.src(n.X),
				w.instead(n.OpPos, "-", prefix+"Neg("+number+", "), w.after(n, ")"))
		}
	}
}

func (w *walker) incDec(n *ast.IncDecStmt) {
	op, other := token.ADD, "--"
	if n.Tok == token.DEC {
		op, other = token.SUB, "++"
	}
	if edits := w.update(n, n.X, op); edits != nil {
		edits = append(edits, w.instead(n.TokPos, n.Tok.String(), ", 1"), w.after(n, ")"))
		w.add(incdec, n.TokPos, w.src(n), w.src(n.X)+other, edits...)
	}
}

func (w *walker) assign(n *ast.AssignStmt) {
	op, ok := assignOp[n.Tok]
	if !ok || w.basic(n.Lhs[0])&types.IsNumeric == 0 || w.looseShift(n.Rhs[0]) {
		return
	}
	if edits := w.update(n, n.Lhs[0], op); edits != nil {
		edits = append(edits, w.instead(n.TokPos, n.Tok.String(), ","), w.after(n, ")"))
		to := w.src(n.Lhs[0]) + " " + swapped[op].String() + "= " + w.src(n.Rhs[0])
		w.add(assign, n.TokPos, w.src(n), to, edits...)
	}
}

// update begins a call that changes x in place: by its address, or in its map.
func (w *walker) update(n ast.Node, x ast.Expr, op token.Token) []edit {
	if ix, ok := ast.Unparen(x).(*ast.IndexExpr); ok {
		if t := w.p.info.Types[ix.X].Type; t != nil {
			if _, ok := t.Underlying().(*types.Map); ok {
				if ix != x {
					return nil
				}
				return []edit{
					w.before(n, prefix+"Map"+helper[op]+"("+number+", "),
					w.instead(ix.Lbrack, "[", ","), w.instead(ix.Rbrack, "]", ""),
				}
			}
		}
	}
	return []edit{w.before(n, prefix+"At"+helper[op]+"("+number+", &")}
}

// branch makes a continue of a break and the other way round, unless that
// comes to the same.
func (w *walker) branch(n *ast.BranchStmt) {
	if n.Tok != token.BREAK && n.Tok != token.CONTINUE {
		return
	}
	other := token.CONTINUE
	if n.Tok == token.CONTINUE {
		other = token.BREAK
	}
	to := other.String()
	if n.Label != nil {
		if n.Tok == token.BREAK && !w.labelsLoop(n.Label.Name) {
			return
		}
		to += " " + n.Label.Name
	} else if !w.differ() {
		return
	}
	w.add(loop, n.Pos(), w.src(n), to, w.before(n, "{ if "+active+" { "+to+" }; "), w.after(n, " }"))
}

// labelsLoop says whether the label is that of a loop.
func (w *walker) labelsLoop(label string) bool {
	for i := range w.stack {
		if l, ok := w.parent(i).(*ast.LabeledStmt); ok && l.Label.Name == label {
			switch l.Stmt.(type) {
			case *ast.ForStmt, *ast.RangeStmt:
				return true
			}
		}
	}
	return false
}

// differ says whether break and continue both mean something where the walker
// is, and not the same: after a switch that is the last of a loop, both go on
// with the loop.
func (w *walker) differ() bool {
	var inner ast.Stmt // the switch or select that break would leave
	last := true       // whether inner ends the body of the loop
	var child ast.Node
	for i := range w.stack {
		n := w.parent(i)
		switch n := n.(type) {
		case *ast.FuncLit, *ast.FuncDecl:
			return false
		case *ast.SwitchStmt, *ast.TypeSwitchStmt, *ast.SelectStmt:
			if inner == nil {
				inner, last = n.(ast.Stmt), true
			}
		case *ast.BlockStmt:
			if inner != nil && child != nil && len(n.List) > 0 && isStmt(child) && !isClause(n.List[0]) && n.List[len(n.List)-1] != child {
				last = false
			}
		case *ast.CaseClause:
			if inner != nil && n.Body[len(n.Body)-1] != child {
				last = false
			}
		case *ast.CommClause:
			if inner != nil && n.Body[len(n.Body)-1] != child {
				last = false
			}
		case *ast.ForStmt:
			return inner == nil || !last
		case *ast.RangeStmt:
			return inner == nil || !last
		}
		child = n
	}
	return false
}

func isStmt(n ast.Node) bool { _, ok := n.(ast.Stmt); return ok }

func isClause(s ast.Stmt) bool {
	switch s.(type) {
	case *ast.CaseClause, *ast.CommClause:
		return true
	}
	return false
}

// call leaves out the call that is statement n, unless it only logs, counts or
// panics.
func (w *walker) call(n ast.Stmt, call *ast.CallExpr) {
	switch w.parent(0).(type) {
	case *ast.BlockStmt, *ast.CaseClause, *ast.CommClause:
	default:
		return
	}
	if comm, ok := w.parent(0).(*ast.CommClause); ok && comm.Comm == n {
		return
	}
	if w.observes(call.Fun) {
		return
	}
	w.add(remove, n.Pos(), w.src(n), "(removed)", w.before(n, "if !"+active+" { "), w.after(n, " }"))
}

// observes says whether a call of f is for those who watch: a log, a metric,
// or a panic for an invariant.
func (w *walker) observes(f ast.Expr) bool {
	f = ast.Unparen(f)
	if id, ok := f.(*ast.Ident); ok && id.Name == "panic" {
		return true
	}
	for {
		switch x := f.(type) {
		case *ast.SelectorExpr:
			if id, ok := x.X.(*ast.Ident); ok {
				if name, ok := w.p.info.Uses[id].(*types.PkgName); ok {
					path := name.Imported().Path()
					return path == "log" || path == "log/slog" || path == "fmt" && strings.HasPrefix(x.Sel.Name, "Print")
				}
			}
			f = x.X
		case *ast.CallExpr:
			f = x.Fun
		case *ast.IndexExpr:
			f = x.X
		case *ast.ParenExpr:
			f = x.X
		default:
			return w.watches(w.p.info.Types[f].Type) || w.watchesIdent(f)
		}
		if w.watches(w.p.info.Types[f].Type) {
			return true
		}
	}
}

func (w *walker) watchesIdent(e ast.Expr) bool {
	id, ok := e.(*ast.Ident)
	return ok && w.p.info.Uses[id] != nil && w.watches(w.p.info.Uses[id].Type())
}

// watches says whether t is a logger or holds metrics.
func (w *walker) watches(t types.Type) bool {
	if p, ok := t.(*types.Pointer); ok {
		t = p.Elem()
	}
	named, ok := types.Unalias(t).(*types.Named)
	if !ok || named.Obj().Pkg() == nil {
		return false
	}
	name, path := named.Obj().Name(), named.Obj().Pkg().Path()
	return path == "log" || path == "log/slog" || strings.HasPrefix(path, "github.com/prometheus/") || name == "metrics" || name == "Metrics"
}

// oneLine shortens source text for the report; what is left out is the same
// for the same text.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	const most = 160
	if r := []rune(s); len(r) > most {
		s = string(r[:most-40]) + " … " + string(r[len(r)-37:])
	}
	return s
}
