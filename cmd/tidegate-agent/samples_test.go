package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate/agent"
	"github.com/tidegate/tidegate/internal/config"
)

var update = flag.Bool("update", false, "rewrite the golden errors of packaging/samples/invalid")

const samples = "../../packaging/samples/"

func TestSampleIsGood(t *testing.T) {
	if _, err := load(samples + "agent.yaml"); err != nil {
		t.Error(err)
	}
}

func TestInvalidSampleSaysWhatIsWrong(t *testing.T) {
	_, err := config.Load[agent.Config](samples + "invalid/agent.yaml")
	if err == nil {
		t.Fatal("no error")
	}
	golden := samples + "invalid/agent.want"
	if *update {
		if err := os.WriteFile(golden, []byte(err.Error()+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, rerr := os.ReadFile(golden)
	if rerr != nil {
		t.Fatal(rerr)
	}
	if diff := cmp.Diff(string(want), err.Error()+"\n"); diff != "" {
		t.Error(diff)
	}
}

func TestStoresOwnSettingsAreChecked(t *testing.T) {
	text, err := os.ReadFile(samples + "agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "agent.yaml")
	bad := strings.Replace(string(text), "slot: tidegate_shop", "slto: tidegate_shop", 1)
	if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = load(path)
	for _, want := range []string{"streams[1].settings.slto (line ", `did you mean "slot"?`, "streams[1].settings.slot: want 1 to 63"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
}
