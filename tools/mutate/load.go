package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// source is one file of the package under test.
type source struct {
	path string // absolute
	name string // as the report shows it, relative to the module
	text []byte
	tree *ast.File
}

// pkg is the package under test, with everything that can be mutated in it.
type pkg struct {
	path    string // import path
	module  string // module path
	root    string // the module's directory
	dir     string
	name    string
	files   []*source
	fset    *token.FileSet
	info    *types.Info
	imports types.Importer
	sites   []*site
	dropped int // places that would not have compiled
}

// listed is what `go list` says of a package.
type listed struct {
	ImportPath string
	Name       string
	Dir        string
	Export     string
	GoFiles    []string
	CgoFiles   []string
	ImportMap  map[string]string
	DepOnly    bool
	Module     *struct{ Path, Dir string }
	Error      *struct{ Err string }
}

// load parses and type-checks the package that pattern names. What it imports
// is read from the compiler's export data.
func load(ctx context.Context, pattern string) (*pkg, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-e", "-export", "-deps",
		"-json=ImportPath,Name,Dir,Export,GoFiles,CgoFiles,ImportMap,DepOnly,Module,Error", pattern)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list %s: %w\n%s", pattern, err, stderr.Bytes())
	}
	export := map[string]string{}
	var target *listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read what go list says: %w", err)
		}
		export[l.ImportPath] = l.Export
		if l.DepOnly {
			continue
		}
		if target != nil {
			return nil, fmt.Errorf("%s is more than one package; name one", pattern)
		}
		target = &l
	}
	switch {
	case target == nil:
		return nil, fmt.Errorf("%s is no package", pattern)
	case target.Error != nil:
		return nil, fmt.Errorf("%s: %s", pattern, target.Error.Err)
	case target.Module == nil:
		return nil, fmt.Errorf("%s belongs to no module", pattern)
	case len(target.CgoFiles) > 0:
		return nil, fmt.Errorf("%s has files with cgo, which cannot be mutated", pattern)
	}
	p := &pkg{
		path: target.ImportPath, module: target.Module.Path, root: target.Module.Dir,
		dir: target.Dir, name: target.Name, fset: token.NewFileSet(),
	}
	p.imports = importer.ForCompiler(p.fset, "gc", func(path string) (io.ReadCloser, error) {
		if to, ok := target.ImportMap[path]; ok {
			path = to
		}
		if export[path] == "" {
			return nil, fmt.Errorf("no export data for %s", path)
		}
		return os.Open(export[path])
	})
	for _, name := range target.GoFiles {
		f := &source{path: filepath.Join(p.dir, name)}
		if f.name, err = filepath.Rel(p.root, f.path); err != nil {
			return nil, err
		}
		if f.text, err = os.ReadFile(f.path); err != nil {
			return nil, err
		}
		if f.tree, err = parser.ParseFile(p.fset, f.path, f.text, parser.ParseComments|parser.SkipObjectResolution); err != nil {
			return nil, err
		}
		p.files = append(p.files, f)
	}
	p.info = &types.Info{
		Types: map[ast.Expr]types.TypeAndValue{},
		Uses:  map[*ast.Ident]types.Object{},
	}
	trees := make([]*ast.File, len(p.files))
	for i, f := range p.files {
		trees[i] = f.tree
	}
	errs := p.check(p.fset, trees, p.info)
	if len(errs) > 0 {
		return nil, fmt.Errorf("%s does not compile: %w", pattern, errs[0])
	}
	return p, nil
}

// check type-checks files and returns every error.
func (p *pkg) check(fset *token.FileSet, files []*ast.File, info *types.Info) []types.Error {
	var errs []types.Error
	conf := types.Config{
		Importer: p.imports,
		Sizes:    types.SizesFor("gc", runtime.GOARCH),
		Error: func(err error) {
			var e types.Error
			if errors.As(err, &e) {
				errs = append(errs, e)
			}
		},
	}
	conf.Check(p.path, fset, files, info) //nolint:errcheck // conf.Error has them all
	return errs
}

// rel is the package's directory in its module, with slashes.
func (p *pkg) rel() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.path, p.module), "/")
}

// knownFile is where the package's known survivors are listed.
func (p *pkg) knownFile() string {
	return filepath.Join(p.root, "tools", "mutate", "known", strings.ReplaceAll(p.rel(), "/", "_")+".txt")
}
