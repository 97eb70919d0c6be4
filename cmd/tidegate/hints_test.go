package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	ucli "github.com/urfave/cli/v2"
)

// quoted is a command line of ours in a message, a comment or a page: between
// backticks, or indented in a page.
var quoted = regexp.MustCompile("(?:`|(?m:^    ))(?:bin/)?tidegate( [^`\n]*)")

// TestHintsNameCommandsThatExist: whoever follows a hint at night must not be
// told that there is no such command.
func TestHintsNameCommandsThatExist(t *testing.T) {
	top := commandTree()
	for line, want := range map[string]string{
		"gate mode --policy degrade": "command mode", "plan show PLAN --forever": "flag --forever", "failover SERVICE --accept-loss=100": "", "rates set ship 0": "",
	} {
		if got := misnamed(top, strings.Fields(line)); got != want {
			t.Fatalf("%s: got %q, want %q", line, got, want)
		}
	}
	read := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == "../..":
			return nil
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "tools" || strings.HasPrefix(d.Name(), "_") || strings.HasPrefix(d.Name(), ".")):
			return filepath.SkipDir
		case !slices.Contains([]string{".go", ".md", ".yaml"}, filepath.Ext(path)), strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range quoted.FindAllStringSubmatch(string(text), -1) {
			read++
			if wrong := misnamed(top, strings.Fields(m[1])); wrong != "" {
				t.Errorf("%s: `tidegate%s`: there is no %s", path, m[1], wrong)
			}
		}
		return nil
	})
	if err != nil || read < 50 {
		t.Errorf("looked at %d command lines: %v", read, err)
	}
}

// misnamed returns the first word that is neither a command nor a flag where it
// stands; words after the last sub-command are arguments.
func misnamed(commands []*ucli.Command, words []string) string {
	flags := []string{"--debug", "--help", "--version"}
	for _, w := range words {
		name, _, _ := strings.Cut(w, "=")
		name = strings.TrimRight(name, ".,;:)")
		i := slices.IndexFunc(commands, func(c *ucli.Command) bool { return c.HasName(name) })
		switch {
		case name == "--": // what follows is another program's
			return ""
		case strings.HasPrefix(name, "--"):
			if !slices.Contains(flags, name) {
				return "flag " + name
			}
		case i >= 0:
			for _, f := range commands[i].Flags {
				for _, n := range f.Names() {
					flags = append(flags, "--"+n)
				}
			}
			commands = commands[i].Subcommands
		case regexp.MustCompile(`^[a-z][a-z-]+$`).MatchString(name) && len(commands) > 0:
			return "command " + name
		default:
			commands = nil
		}
	}
	return ""
}
