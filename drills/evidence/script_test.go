package evidence_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
)

// script runs docs/verify-evidence.py on files in a directory, and returns what it
// printed and its exit code.
func script(t *testing.T, files []evidence.File, heads ...evidence.Hash) (string, int) {
	t.Helper()
	return scriptIn(t, t.TempDir(), files, heads...)
}

// scriptIn is script in a directory that is there.
func scriptIn(t *testing.T, dir string, files []evidence.File, heads ...evidence.Hash) (string, int) {
	t.Helper()
	args := []string{"--key", "testdata/v1/key.pem", filepath.Join(dir, "drills")}
	for _, h := range heads {
		args = append(args, "--head", h.String())
	}
	for _, f := range files {
		path := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command("../../docs/verify-evidence.py", args...).CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return string(out), 0
	case errors.As(err, &exit):
		return string(out), exit.ExitCode()
	}
	t.Fatalf("%v (tools/needs installs python3 and openssl)", err)
	return "", 0
}

// TestScriptOfTheDocs holds docs/verify-evidence.py against [evidence.Verify]: it has
// nothing of ours, and must find the same.
func TestScriptOfTheDocs(t *testing.T) {
	key, other := evidence.KeyFromSeed(1), evidence.KeyFromSeed(2)
	good := chain(t, key, "good", 2)
	head := hashOf(t, good[1])
	out, code := script(t, good, head)
	if code != 0 || !strings.Contains(out, "good: reports 1 to 2, head "+head.String()) {
		t.Errorf("sound evidence: exit code %d\n%s", code, out)
	}

	// Every fault at once, each in a service of its own.
	of := func(service tidegate.ServiceName) []evidence.File { return chain(t, key, service, 2) }
	tampered, garbled, missing, forked, reordered := of("tampered"), of("garbled"), chain(t, key, "missing", 3), of("forked"), of("reordered")
	tampered[0] = reseal(t, tampered[0], "not empty", "empty")
	garbled[0] = reseal(t, garbled[0], `{"format"`, `"format"`)
	missing = slices.Delete(missing, 1, 2)
	reordered[0].Data, reordered[1].Data = reordered[1].Data, reordered[0].Data
	usurped := of("usurper")
	for i := range usurped {
		usurped[i].Name = strings.Replace(usurped[i].Name, "usurper", "usurped", 1)
	}
	another := bare()
	another.Service, another.Scenario = "forked", "another"
	forked[0].Data = sealed(t, another).Data
	files := slices.Concat(good, tampered, garbled, missing, forked, reordered, usurped, chain(t, other, "stranger", 1))
	cut := evidence.HashOf([]byte("noted, and not there"))
	out, code = script(t, files, head, cut)
	p := evidence.Verify(files, trusted, evidence.VerifyOptions{Whole: true, Heads: []evidence.Hash{head, cut}})
	if code != 9 || p.Err() == nil {
		t.Errorf("exit code %d, %v", code, p.Err())
	}
	for line, kind := range map[string]error{
		"tampered/0000000001.dsse.json: tampered":                                              evidence.ErrTampered,
		"garbled/0000000001.dsse.json: tampered":                                               evidence.ErrTampered,
		"garbled: missing link: it does not begin with report 1":                               evidence.ErrMissing,
		"missing: missing link: reports 2 to 2":                                                evidence.ErrMissing,
		"forked/0000000002.dsse.json: forked: it follows ":                                     evidence.ErrForked,
		"reordered/0000000001.dsse.json: reordered: it holds report 2":                         evidence.ErrReordered,
		"reordered/0000000002.dsse.json: reordered: it holds report 1":                         evidence.ErrReordered,
		"usurped/0000000001.dsse.json: reordered: it holds a report of usurper":                evidence.ErrReordered,
		"stranger/0000000001.dsse.json: wrong key: signed with " + string(other.Public().ID()): evidence.ErrWrongKey,
		"truncated: no report has the hash " + cut.String():                                    evidence.ErrTruncated,
	} {
		if !strings.Contains(out, line) {
			t.Errorf("the script did not say %q:\n%s", line, out)
		}
		service, _, _ := strings.Cut(line, "/")
		service, _, _ = strings.Cut(service, ":")
		if !slices.ContainsFunc(p.Findings, func(f evidence.Finding) bool {
			return errors.Is(f.Err, kind) && (service == "truncated" || strings.Contains(f.String(), service))
		}) {
			t.Errorf("Verify did not find %v of %s: %q", kind, service, p.Findings)
		}
	}
	if strings.Contains(out, "good/") {
		t.Errorf("what is sound was blamed:\n%s", out)
	}
}

// TestScriptSaysWhatItCannotRead: what lies in a directory that cannot be read is not known
// to be sound. Its path is too long for the kernel, so that not even root reads it.
func TestScriptSaysWhatItCannotRead(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	deep := "drills" + strings.Repeat("/"+strings.Repeat("x", 250), 17)
	if err := errors.Join(root.MkdirAll(deep, 0o755), root.Close()); err != nil {
		t.Fatal(err)
	}
	out, code := scriptIn(t, dir, chain(t, evidence.KeyFromSeed(1), "good", 1))
	if code != 9 || !strings.Contains(out, "File name too long") || strings.Contains(out, "are sound") {
		t.Errorf("exit code %d\n%s", code, out)
	}
}
