package fence_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write the observed traces into testdata; commit only what you can explain")

// TestScripts runs testdata/*.txt: commands, a line of dashes, the trace that
// they must give, an empty line. Lines with # at the start are comments.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) { runScript(t, f) })
	}
}

func runScript(t *testing.T, file string) {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	c := &cluster{names: map[[16]byte]string{}}
	for block := range strings.SplitSeq(strings.TrimRight(string(b), "\n"), "\n\n") {
		head, want, has := strings.Cut(block, "----")
		var cmds []string
		for line := range strings.SplitSeq(strings.TrimSpace(head), "\n") {
			if line != "" && line[0] != '#' {
				cmds = append(cmds, line)
			}
		}
		if strings.TrimSpace(block) == "" {
			continue
		}
		if len(cmds) == 0 {
			out.WriteString(strings.TrimSpace(block) + "\n\n")
			continue
		}
		if !has && !*rewrite {
			t.Fatalf("block without ----:\n%s", block)
		}
		c.trace.Reset()
		for _, cmd := range cmds {
			c.command(t, cmd)
		}
		got := strings.TrimRight(c.trace.String(), "\n")
		if want = strings.Trim(want, "\n"); got != want && !*rewrite {
			t.Errorf("%s\ngot:\n%s\nwant:\n%s", strings.Join(cmds, "\n"), got, want)
		}
		if got != "" {
			got += "\n"
		}
		fmt.Fprintf(&out, "%s\n----\n%s\n", strings.TrimSpace(head), got)
	}
	if *rewrite {
		if err := os.WriteFile(file, []byte(strings.TrimRight(out.String(), "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// args are the words after a command: bare ones in order, key=value ones by key.
type args struct {
	words []string
	vals  map[string]string
}

func parseArgs(words []string) args {
	a := args{vals: map[string]string{}}
	for _, w := range words {
		if k, v, ok := strings.Cut(w, "="); ok {
			a.vals[k] = v
		} else {
			a.words = append(a.words, w)
		}
	}
	return a
}

func (a args) num(key string, or int) int {
	v, ok := a.vals[key]
	if !ok {
		return or
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		panic(err)
	}
	return n
}

func (a args) has(word string) bool {
	for _, w := range a.words {
		if w == word {
			return true
		}
	}
	return false
}
