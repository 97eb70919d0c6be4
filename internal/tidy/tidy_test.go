package tidy

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/tidegate/tidegate/internal/racetest"
)

// rules are the checks by the name that a self-test calls them.
func rules(house []Entry) map[string]func(*Tree) []string {
	return map[string]func(*Tree) []string{
		"floors":           func(t *Tree) []string { return t.Floors(house) },
		"package-comments": (*Tree).PackageComments,
		"sleeps":           (*Tree).Sleeps,
		"exits":            (*Tree).Exits,
		"goroutines":       (*Tree).Goroutines,
		"direct-writes":    (*Tree).DirectWrites,
		"context-fields":   (*Tree).ContextFields,
		"unfinished":       (*Tree).Unfinished,
		"links":            (*Tree).Links,
		"orphans":          (*Tree).Orphans,
		"metrics":          (*Tree).Metrics,
		"replaces":         (*Tree).Replaces,
		"workplace":        (*Tree).Workplace,
	}
}

var update = flag.Bool("update", false, "write the generated part of docs/metrics.md")

func TestRepository(t *testing.T) {
	if !*update && racetest.Apart(t) {
		return
	}
	tree, err := Load(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("../../"+metricsDoc, []byte(tree.MetricsDoc()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for name, rule := range rules(House()) {
		t.Run(name, func(t *testing.T) {
			for _, f := range rule(tree) {
				t.Error(f)
			}
		})
	}
}

func TestAgentLinksNeitherEtcdNorGRPC(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "./cmd/tidegate-agent")
	cmd.Dir = "../.."
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range AgentDeps(strings.Fields(string(out))) {
		t.Error(f)
	}
}

func TestAgentDeps(t *testing.T) {
	got := AgentDeps([]string{"fmt", "go.etcd.io/etcd/client/v3", "google.golang.org/grpc/codes", "google.golang.org/protobuf/proto", "github.com/aws/aws-sdk-go-v2/aws", "github.com/minio/minio-go/v7"})
	if len(got) != 3 {
		t.Errorf("got %q, want a finding each for etcd, grpc and the larger library of object stores", got)
	}
}

// TestRules runs one rule over a small tree per file of testdata. The comment
// of the archive starts with the rule's name; its file "want" has the findings.
func TestRules(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	house := []Entry{
		{".", 0, "root"},
		{"low", 1, "below"},
		{"mid", 10, "between"},
		{"high", 20, "above"},
		{"gone", 20, "was removed"},
		{"mute", 20, ""},
	}
	covered := map[string]bool{}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			name, _, _ := strings.Cut(string(archive.Comment), "\n")
			covered[name] = true
			fsys := fstest.MapFS{}
			for _, f := range archive.Files {
				fsys[f.Name] = &fstest.MapFile{Data: f.Data}
			}
			tree, err := Load(fsys)
			if err != nil {
				t.Fatal(err)
			}
			rule := rules(house)[name]
			if rule == nil {
				t.Fatalf("no rule %q", name)
			}
			want, _ := tree.Text("want")
			if diff := cmp.Diff(strings.TrimSpace(want), strings.Join(rule(tree), "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
	for name := range rules(nil) {
		if name != "workplace" && !covered[name] {
			t.Errorf("rule %q has no file in testdata", name)
		}
	}
}

// The paths are put together here, so that the rule does not find its own test.
func TestWorkplace(t *testing.T) {
	home, up := "/wo"+"rk/", "../sha"+"red"
	tree := &Tree{Texts: []Text{
		{"a.md", "see " + home + "x\nand docs" + home + "y\nand " + up + "/Z.md\n"},
		{"b.sh", "cd " + home + "main\nls " + up + "library\n"},
	}}
	want := []string{
		"a.md:1: names a path of the machine it was written on",
		"a.md:3: names a path of the machine it was written on",
		"b.sh:1: names a path of the machine it was written on",
	}
	if diff := cmp.Diff(want, tree.Workplace()); diff != "" {
		t.Error(diff)
	}
}

func TestLoadRefusesATreeWithoutModule(t *testing.T) {
	if _, err := Load(os.DirFS(t.TempDir())); err == nil {
		t.Error("no error")
	}
}

func TestMetricsDocIsWhatTheRuleWants(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/metrics.txtar")
	if err != nil {
		t.Fatal(err)
	}
	fsys := fstest.MapFS{}
	for _, f := range archive.Files {
		fsys[f.Name] = &fstest.MapFile{Data: f.Data}
	}
	fsys[metricsDoc] = &fstest.MapFile{Data: []byte("# Metrics\n\n" + metricsMarker + "stale\n")}
	tree, err := Load(fsys)
	if err != nil {
		t.Fatal(err)
	}
	fsys[metricsDoc] = &fstest.MapFile{Data: []byte(tree.MetricsDoc())}
	if tree, err = Load(fsys); err != nil {
		t.Fatal(err)
	}
	if found := tree.Metrics(); len(found) > 0 {
		t.Error(found)
	}
	if doc := tree.MetricsDoc(); !strings.HasPrefix(doc, "# Metrics\n") || strings.Contains(doc, "stale") {
		t.Error(doc)
	}
}
