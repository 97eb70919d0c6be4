package tidy

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Tree is a repository, read once.
type Tree struct {
	Module   string
	Packages []*Package // by folder
	Texts    []Text     // every file that is not binary, Go or not, by path
	fset     *token.FileSet
}

// Package is the Go files of one folder.
type Package struct {
	Dir   string // from the root, with slashes; "." is the root
	Files []*File
}

// File is one Go file.
type File struct {
	Path      string
	Test      bool
	Generated bool
	Imports   []string
	Syntax    *ast.File
}

// Text is one file's content.
type Text struct {
	Path string
	Body string
}

// skipped are folders that git does not have, or that are not ours to judge.
var skipped = []string{".git", ".cache", "bin", "dist", "node_modules"}

// Load reads the tree under fsys, whose root has the go.mod.
func Load(fsys fs.FS) (*Tree, error) {
	t := &Tree{fset: token.NewFileSet()}
	packages := map[string]*Package{}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains(skipped, d.Name()):
			return fs.SkipDir
		case !d.Type().IsRegular(), d.Name() == ".git": // a file in a worktree of git
			return nil
		}
		body, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		if strings.Contains(string(body[:min(len(body), 4096)]), "\x00") {
			return nil
		}
		t.Texts = append(t.Texts, Text{name, string(body)})
		if path.Ext(name) != ".go" || inTestdata(name) {
			return nil
		}
		f, err := t.parse(name, body)
		if err != nil {
			return err
		}
		dir := path.Dir(name)
		if packages[dir] == nil {
			packages[dir] = &Package{Dir: dir}
			t.Packages = append(t.Packages, packages[dir])
		}
		packages[dir].Files = append(packages[dir].Files, f)
		return nil
	})
	if err != nil {
		return nil, err
	}
	mod, _ := t.Text("go.mod")
	first, _, _ := strings.Cut(mod, "\n")
	t.Module = strings.TrimSpace(strings.TrimPrefix(first, "module"))
	if t.Module == "" {
		return nil, fmt.Errorf("load tree: no module line in go.mod")
	}
	return t, nil
}

func (t *Tree) parse(name string, body []byte) (*File, error) {
	syntax, err := parser.ParseFile(t.fset, name, body, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	f := &File{Path: name, Test: strings.HasSuffix(name, "_test.go"), Generated: ast.IsGenerated(syntax), Syntax: syntax}
	for _, imp := range syntax.Imports {
		p, err := strconv.Unquote(imp.Path.Value)
		if err != nil {
			return nil, err
		}
		f.Imports = append(f.Imports, p)
	}
	return f, nil
}

// Package returns the package in dir, or nil.
func (t *Tree) Package(dir string) *Package {
	for _, p := range t.Packages {
		if p.Dir == dir {
			return p
		}
	}
	return nil
}

// Text returns the content of the file at name, and whether there is one.
func (t *Tree) Text(name string) (string, bool) {
	for _, x := range t.Texts {
		if x.Path == name {
			return x.Body, true
		}
	}
	return "", false
}

// at is "path:line" of a node.
func (t *Tree) at(f *File, pos token.Pos) string {
	return fmt.Sprintf("%s:%d", f.Path, t.fset.Position(pos).Line)
}

// each calls visit with every Go file that keep accepts.
func (t *Tree) each(keep func(*File) bool, visit func(*Package, *File)) {
	for _, p := range t.Packages {
		for _, f := range p.Files {
			if keep(f) {
				visit(p, f)
			}
		}
	}
}

func source(f *File) bool { return !f.Test && !f.Generated }
func tests(f *File) bool  { return f.Test }

func (p *Package) hasSource() bool {
	return slices.ContainsFunc(p.Files, func(f *File) bool { return !f.Test })
}

func (p *Package) isMain() bool { return p.Files[0].Syntax.Name.Name == "main" }

func inTestdata(name string) bool {
	return slices.Contains(strings.Split(path.Dir(name), "/"), "testdata")
}

// uses reports whether n is pkg.name, where pkg is the import path's package.
func (f *File) uses(n ast.Node, importPath string, names ...string) (string, bool) {
	sel, ok := n.(*ast.SelectorExpr)
	if !ok || !slices.Contains(names, sel.Sel.Name) {
		return "", false
	}
	id, ok := sel.X.(*ast.Ident)
	if !ok || id.Name != f.localName(importPath) {
		return "", false
	}
	return id.Name + "." + sel.Sel.Name, true
}

// localName is the name under which f imports importPath, or "".
func (f *File) localName(importPath string) string {
	for i, p := range f.Imports {
		if p != importPath {
			continue
		}
		if n := f.Syntax.Imports[i].Name; n != nil {
			return n.Name
		}
		return path.Base(p)
	}
	return ""
}
