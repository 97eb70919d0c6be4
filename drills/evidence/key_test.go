package evidence_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
)

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "drill.key")
	made, err := evidence.NewKey(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info.Mode(), err)
	}
	read, err := evidence.LoadKey(path)
	if err != nil || read.Public().ID() != made.Public().ID() {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := evidence.NewKey(path); tidegate.ClassOf(err) != tidegate.Refused || tidegate.HintOf(err) == "" {
		t.Errorf("made again: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the key was written over: %v", err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := evidence.LoadKey(path); tidegate.ClassOf(err) != tidegate.Misuse || !strings.Contains(tidegate.HintOf(err), "chmod 600") {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
}

// TestKeysAreOpenssls: whoever checks evidence without Tidegate finds the same key and
// the same name for it.
func TestKeysAreOpenssls(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	run := func(script string) []byte {
		t.Helper()
		out, err := exec.Command("sh", "-euc", script, "sh", key).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s (tools/needs installs openssl)", script, err, out)
		}
		return out
	}
	run(`umask 077; openssl genpkey -algorithm ED25519 -out "$1"`)
	k, err := evidence.LoadKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if pub := run(`openssl pkey -in "$1" -pubout`); !bytes.Equal(pub, k.Public().PEM()) {
		t.Errorf("openssl has\n%s, want\n%s", pub, k.Public().PEM())
	}
	if id := run(`openssl pkey -in "$1" -pubout -outform DER | sha256sum | cut -c1-64`); strings.TrimSpace(string(id)) != string(k.Public().ID()) {
		t.Errorf("openssl has %s, want %s", id, k.Public().ID())
	}
}

func TestKeysThatAreNone(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) string {
		path := filepath.Join(dir, "f")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ec, err := exec.Command("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256").Output()
	if err != nil {
		t.Fatal(err, "(tools/needs installs openssl)")
	}
	public := string(evidence.KeyFromSeed(1).Public().PEM())
	for name, text := range map[string]string{
		"empty": "", "text": "key", "public": public, "not a key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "of another kind": string(ec),
	} {
		path := write(text)
		if _, err := evidence.LoadKey(path); tidegate.ClassOf(err) != tidegate.Misuse || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "public" {
			continue
		}
		if _, err := evidence.LoadPublicKey(path); tidegate.ClassOf(err) != tidegate.Misuse || !strings.Contains(err.Error(), path) {
			t.Errorf("%s, as a public key: %v", name, err)
		}
	}
	if k, err := evidence.LoadPublicKey(write(public)); err != nil || k.ID() != evidence.KeyFromSeed(1).Public().ID() {
		t.Error(err)
	}
	if _, err := evidence.LoadKey(filepath.Join(dir, "none")); tidegate.HintOf(err) == "" {
		t.Errorf("none: %v", err)
	}
}
