package main

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate/internal/config"
)

var update = flag.Bool("update", false, "rewrite the golden errors of packaging/samples/invalid")

const samples = "../../packaging/samples"

// readers read a role's sample without looking for its certificate.
func readers() map[string]func(path string) error {
	return map[string]func(string) error{
		"gate":     reader[gateFile],
		"operator": reader[operatorFile],
		"route":    reader[routeFile],
		"standby":  reader[standbyFile],
	}
}

func reader[F config.Defaulter[F]](path string) error {
	_, err := config.Load[F](path)
	return err
}

func TestSamplesAreGood(t *testing.T) {
	for role, read := range readers() {
		t.Run(role, func(t *testing.T) {
			if err := read(filepath.Join(samples, role+".yaml")); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestInvalidSamplesSayWhatIsWrong(t *testing.T) {
	for role, read := range readers() {
		t.Run(role, func(t *testing.T) {
			dir := filepath.Join(samples, "invalid")
			err := read(filepath.Join(dir, role+".yaml"))
			if err == nil {
				t.Fatal("no error")
			}
			golden := filepath.Join(dir, role+".want")
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
		})
	}
}

// TestEveryRoleIsChecked: what has a sample has a check-config.
func TestEveryRoleIsChecked(t *testing.T) {
	for role := range readers() {
		if checks()[role] == nil {
			t.Errorf("check-config lacks %s", role)
		}
	}
}
