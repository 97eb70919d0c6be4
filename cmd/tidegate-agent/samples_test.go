package main

import (
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate/agent"
	"github.com/tidegate/tidegate/internal/config"
)

var update = flag.Bool("update", false, "rewrite the golden errors of packaging/samples/invalid")

const samples = "../../packaging/samples/"

func TestSampleIsGood(t *testing.T) {
	if _, err := config.Load[agent.Config](samples + "agent.yaml"); err != nil {
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
