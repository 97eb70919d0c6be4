package tidy

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#{1,6} +(.+?)\s*$`)
	fence   = regexp.MustCompile("(?ms)^```.*?^```")
	code    = regexp.MustCompile("`[^`\n]*`")
	slugOut = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// Links reports links in Markdown files that lead to no file or no heading.
func (t *Tree) Links() []string {
	var found []string
	for _, x := range t.Texts {
		if path.Ext(x.Path) != ".md" || inTestdata(x.Path) {
			continue
		}
		for _, target := range linksOf(x.Body) {
			file, anchor, _ := strings.Cut(target, "#")
			name := x.Path
			if file != "" {
				name = path.Join(path.Dir(x.Path), file)
			}
			body, isFile := t.Text(name)
			switch {
			case !isFile && !t.isDir(name):
				found = append(found, fmt.Sprintf("%s: link to %s: no such file", x.Path, target))
			case anchor != "" && path.Ext(name) == ".md" && !slices.Contains(anchorsOf(body), anchor):
				found = append(found, fmt.Sprintf("%s: link to %s: no such heading", x.Path, target))
			}
		}
	}
	return found
}

// Orphans reports documents that no chain of links from docs/README.md reaches.
func (t *Tree) Orphans() []string {
	const index = "docs/README.md"
	reached := map[string]bool{index: true}
	for queue := []string{index}; len(queue) > 0; queue = queue[1:] {
		body, _ := t.Text(queue[0])
		for _, target := range linksOf(body) {
			file, _, _ := strings.Cut(target, "#")
			name := path.Join(path.Dir(queue[0]), file)
			if path.Ext(name) == ".md" && !reached[name] {
				reached[name] = true
				queue = append(queue, name)
			}
		}
	}
	var found []string
	for _, x := range t.Texts {
		if strings.HasPrefix(x.Path, "docs/") && path.Ext(x.Path) == ".md" && !reached[x.Path] {
			found = append(found, x.Path+": not reachable from "+index)
		}
	}
	if _, ok := t.Text(index); !ok {
		found = append(found, index+": missing")
	}
	return found
}

// linksOf returns the link targets of a Markdown text that lie in this repository.
func linksOf(body string) []string {
	var out []string
	body = code.ReplaceAllString(fence.ReplaceAllString(body, ""), "")
	for _, m := range link.FindAllStringSubmatch(body, -1) {
		if !strings.Contains(m[1], "://") && !strings.HasPrefix(m[1], "mailto:") {
			out = append(out, m[1])
		}
	}
	return out
}

// anchorsOf returns the names under which the headings of body can be linked.
func anchorsOf(body string) []string {
	var out []string
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(body, ""), -1) {
		slug := slugOut.ReplaceAllString(strings.ToLower(m[1]), "")
		out = append(out, strings.ReplaceAll(slug, " ", "-"))
	}
	return out
}

func (t *Tree) isDir(name string) bool {
	return name == "." || slices.ContainsFunc(t.Texts, func(x Text) bool { return strings.HasPrefix(x.Path, name+"/") })
}

var replaced = regexp.MustCompile(`(?m)^\s*(replace\b|.*=>)`)

// Replaces reports replace directives: nobody who imports the journal library
// would get them.
func (t *Tree) Replaces() []string {
	var found []string
	for _, x := range t.Texts {
		if path.Base(x.Path) == "go.mod" && !inTestdata(x.Path) && replaced.MatchString(x.Body) {
			found = append(found, x.Path+": has a replace directive")
		}
	}
	return found
}

// workplace matches paths of the machines this was written on. The expression
// is put together so that this file does not match itself.
var workplace = regexp.MustCompile(`(^|[^A-Za-z0-9._-])/wo` + `rk/|\.\./sha` + `red\b`)

// Workplace reports paths that mean something on one machine only.
func (t *Tree) Workplace() []string {
	var found []string
	for _, x := range t.Texts {
		for i, line := range strings.Split(x.Body, "\n") {
			if workplace.MatchString(line) {
				found = append(found, fmt.Sprintf("%s:%d: names a path of the machine it was written on", x.Path, i+1))
			}
		}
	}
	return found
}
