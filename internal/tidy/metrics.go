package tidy

import (
	"fmt"
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// metricsDoc documents every metric, each name in backquotes at a line's start
// or in a table's first column.
const metricsDoc = "docs/metrics.md"

var (
	metricName = regexp.MustCompile(`^tidegate_[a-z][a-z0-9_]*[a-z0-9]$`)
	documented = regexp.MustCompile("(?m)^\\|? ?`(tidegate_[a-z0-9_]+)`")
)

// Metrics reports metrics that docs/metrics.md lacks, and documented ones that
// nothing produces. Names are found in the source: whole ("tidegate_x_y") or in
// the parts that prometheus joins (Namespace, Subsystem, Name), given as string
// constants.
func (t *Tree) Metrics() []string {
	produced := t.producers()
	doc, _ := t.Text(metricsDoc)
	inDoc := map[string]bool{}
	for _, m := range documented.FindAllStringSubmatch(doc, -1) {
		inDoc[m[1]] = true
	}
	var found []string
	for name, at := range produced {
		if !inDoc[name] {
			found = append(found, fmt.Sprintf("%s: %s is not in %s", at, name, metricsDoc))
		}
	}
	for name := range inDoc {
		if produced[name] == "" {
			found = append(found, fmt.Sprintf("%s: %s has no producer", metricsDoc, name))
		}
	}
	sort.Strings(found)
	return found
}

// producers maps each metric name to where the source constructs it.
func (t *Tree) producers() map[string]string {
	out := map[string]string{}
	for _, p := range t.Packages {
		consts := stringConsts(p)
		for _, f := range p.Files {
			if !source(f) {
				continue
			}
			ast.Inspect(f.Syntax, func(n ast.Node) bool {
				name := ""
				switch n := n.(type) {
				case *ast.BasicLit:
					name = literal(n)
				case *ast.CompositeLit:
					name = optsName(n, consts)
				case *ast.CallExpr:
					if _, is := f.uses(n.Fun, "github.com/prometheus/client_golang/prometheus", "BuildFQName"); is {
						name = joined(consts, n.Args...)
					}
				}
				if metricName.MatchString(name) {
					out[name] = t.at(f, n.Pos())
				}
				return true
			})
		}
	}
	return out
}

// optsName is the full name that prometheus would build from an Opts literal.
func optsName(lit *ast.CompositeLit, consts map[string]string) string {
	parts := map[string]ast.Expr{}
	for _, e := range lit.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok {
			if key, ok := kv.Key.(*ast.Ident); ok {
				parts[key.Name] = kv.Value
			}
		}
	}
	if parts["Namespace"] == nil || parts["Name"] == nil {
		return ""
	}
	return joined(consts, parts["Namespace"], parts["Subsystem"], parts["Name"])
}

func joined(consts map[string]string, parts ...ast.Expr) string {
	var names []string
	for _, e := range parts {
		switch e := e.(type) {
		case *ast.BasicLit:
			names = append(names, literal(e))
		case *ast.Ident:
			names = append(names, consts[e.Name])
		}
	}
	return strings.Join(slices.DeleteFunc(names, func(s string) bool { return s == "" }), "_")
}

func literal(n *ast.BasicLit) string {
	if n.Kind != token.STRING {
		return ""
	}
	s, err := strconv.Unquote(n.Value)
	if err != nil {
		return ""
	}
	return s
}

func stringConsts(p *Package) map[string]string {
	out := map[string]string{}
	for _, f := range p.Files {
		for _, d := range f.Syntax.Decls {
			gen, ok := d.(*ast.GenDecl)
			if !ok || gen.Tok != token.CONST {
				continue
			}
			for _, s := range gen.Specs {
				spec, ok := s.(*ast.ValueSpec)
				if !ok {
					continue
				}
				for i, v := range spec.Values {
					if lit, ok := v.(*ast.BasicLit); ok {
						out[spec.Names[i].Name] = literal(lit)
					}
				}
			}
		}
	}
	return out
}
