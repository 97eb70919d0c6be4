package tidy

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strings"
)

// PackageComments reports packages whose comment is missing, repeated, or not
// in doc.go, and package names that say a kind instead of a domain.
func (t *Tree) PackageComments() []string {
	var found []string
	for _, p := range t.Packages {
		if !p.hasSource() {
			continue
		}
		if name := path.Base(p.Dir); slices.Contains([]string{"utils", "util", "common", "helpers", "types", "models", "misc"}, name) {
			found = append(found, fmt.Sprintf("%s: %q names a kind: name the package after its domain", p.Dir, name))
		}
		inDoc := false
		for _, f := range p.Files {
			switch has := f.Syntax.Doc != nil; {
			case has && path.Base(f.Path) == "doc.go":
				inDoc = true
			case has && !f.Generated:
				found = append(found, f.Path+": has a package comment: it belongs into doc.go")
			}
		}
		if !inDoc {
			found = append(found, p.Dir+": no package comment in doc.go")
		}
	}
	return found
}

// Sleeps reports time.Sleep in tests. Inside synctest.Test it moves the fake
// clock and is fine.
func (t *Tree) Sleeps() []string {
	var found []string
	t.each(tests, func(_ *Package, f *File) {
		var bubbles [][2]token.Pos
		ast.Inspect(f.Syntax, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if _, is := f.uses(call.Fun, "testing/synctest", "Test"); is {
					bubbles = append(bubbles, [2]token.Pos{call.Pos(), call.End()})
				}
			}
			if _, is := f.uses(n, "time", "Sleep"); is && !slices.ContainsFunc(bubbles, func(b [2]token.Pos) bool {
				return b[0] <= n.Pos() && n.Pos() < b[1]
			}) {
				found = append(found, t.at(f, n.Pos())+": time.Sleep in a test: wait on a channel or a condition, or use synctest")
			}
			return true
		})
	})
	return found
}

// Exits reports ways to end the process outside a main package.
func (t *Tree) Exits() []string {
	var found []string
	t.each(source, func(p *Package, f *File) {
		if p.isMain() {
			return
		}
		ast.Inspect(f.Syntax, func(n ast.Node) bool {
			for importPath, names := range map[string][]string{
				"os":  {"Exit"},
				"log": {"Fatal", "Fatalf", "Fatalln", "Panic", "Panicf", "Panicln"},
			} {
				if what, is := f.uses(n, importPath, names...); is {
					found = append(found, fmt.Sprintf("%s: %s outside main: return an error", t.at(f, n.Pos()), what))
				}
			}
			return true
		})
	})
	return found
}

// Goroutines reports go statements that nobody owns in writing.
func (t *Tree) Goroutines() []string {
	var found []string
	t.each(source, func(_ *Package, f *File) {
		owned := map[int]bool{}
		for _, group := range f.Syntax.Comments {
			if strings.Contains(group.Text(), "owned by") {
				owned[t.fset.Position(group.End()).Line] = true
			}
		}
		goLines := map[int]bool{}
		ast.Inspect(f.Syntax, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok {
				line := t.fset.Position(g.Pos()).Line
				goLines[line] = true
				// The comment of the go statement one line up is that one's.
				if above := owned[line-1] && !goLines[line-1]; !owned[line] && !above {
					found = append(found, t.at(f, g.Pos())+": go statement without an owner: errgroup, WaitGroup.Go or `// owned by ...; ends when ...`")
				}
			}
			return true
		})
	})
	return found
}

// storage are the packages whose files must survive a power cut; everything
// they write goes through internal/vfs and internal/durable.
var storage = []string{"journal", "standby", "internal/seglog", "internal/durable", "agent", "gating", "stores", "batch"}

// DirectWrites reports changes to files that bypass the file-system seam.
func (t *Tree) DirectWrites() []string {
	var found []string
	t.each(source, func(p *Package, f *File) {
		if !slices.ContainsFunc(storage, func(dir string) bool { return p.Dir == dir || strings.HasPrefix(p.Dir, dir+"/") }) {
			return
		}
		ast.Inspect(f.Syntax, func(n ast.Node) bool {
			if what, is := f.uses(n, "os", "Create", "CreateTemp", "OpenFile", "WriteFile", "Rename", "Remove", "RemoveAll",
				"Mkdir", "MkdirAll", "MkdirTemp", "Truncate", "Link", "Symlink"); is {
				found = append(found, fmt.Sprintf("%s: %s in a storage package: go through internal/vfs or internal/durable", t.at(f, n.Pos()), what))
			}
			return true
		})
	})
	return found
}

// ContextFields reports contexts kept in structs, and init functions.
func (t *Tree) ContextFields() []string {
	var found []string
	t.each(source, func(_ *Package, f *File) {
		ast.Inspect(f.Syntax, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.StructType:
				for _, field := range n.Fields.List {
					if _, is := f.uses(field.Type, "context", "Context"); is {
						found = append(found, t.at(f, field.Pos())+": context kept in a struct: pass it to the call that needs it")
					}
				}
			case *ast.FuncDecl:
				if n.Name.Name == "init" && n.Recv == nil {
					found = append(found, t.at(f, n.Pos())+": init function: construct where it is used")
				}
			}
			return true
		})
	})
	return found
}

var (
	unfinished = regexp.MustCompile(`\b(FIXME|XXX|HACK)\b`)
	todo       = regexp.MustCompile(`\bTODO\b(\([a-z0-9-]+\):.*?(docs/[A-Za-z0-9._/-]+\.md))?`)
)

// Unfinished reports FIXMEs, and TODOs that no document explains.
func (t *Tree) Unfinished() []string {
	var found []string
	t.each(func(f *File) bool { return !f.Generated }, func(_ *Package, f *File) {
		for _, group := range f.Syntax.Comments {
			for _, c := range group.List {
				if m := unfinished.FindString(c.Text); m != "" {
					found = append(found, fmt.Sprintf("%s: %s: finish it or leave it out", t.at(f, c.Pos()), m))
				}
				m := todo.FindStringSubmatch(c.Text)
				if m == nil {
					continue
				}
				if _, ok := t.Text(m[2]); !ok {
					found = append(found, t.at(f, c.Pos())+": TODO without `TODO(name): ... docs/<file>.md` that explains it")
				}
			}
		}
	})
	return found
}
