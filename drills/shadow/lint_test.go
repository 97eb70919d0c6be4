package shadow

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/judge"
	"github.com/tidegate/tidegate/drills/probe"
	"github.com/tidegate/tidegate/drills/recovery"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
)

// A plan that could not be carried out, or whose drill would tell too little, is found
// without carrying it out, and nothing is made.
func TestLint(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	digest := s.digest
	for name, tc := range map[string]struct {
		set     func(c *Config)
		fs      vfs.FS
		outcome judge.Outcome
		why     string
	}{
		"well":       {func(*Config) {}, vfs.OS(), judge.Passed, ""},
		"behind":     {func(*Config) { s.blind = new(time.Hour) }, vfs.OS(), judge.Failed, "check begins failed: the live standby node is behind already"},
		"let in":     {func(*Config) { s.letIn = true }, vfs.OS(), judge.Failed, "it was not refused"},
		"no room":    {func(*Config) {}, fullDisk{vfs.OS()}, judge.Failed, "check space failed"},
		"no digest":  {func(*Config) { s.digest = tidegate.Digest{} }, vfs.OS(), judge.Partial, "would compare nothing"},
		"no program": {func(c *Config) { c.Program.Follow[0] = "/none/ledger" }, vfs.OS(), judge.Failed, "check program /none/ledger failed"},
		"no check": {func(c *Config) {
			c.Checks = []probe.Check{{Name: "a", Ask: probe.Ask{Command: &probe.Command{Run: []string{s.dir}}}}}
		}, vfs.OS(), judge.Failed, "it is not a program"},
		"weak": {func(c *Config) {
			c.Recovery = &Recovery{Required: "precise", Approach: recovery.Amnesia, Class: recovery.Arbitrary}
		}, vfs.OS(), judge.Failed, "and precise is required"},
		"good enough": {func(c *Config) {
			c.Recovery = &Recovery{Required: "gap-ok", Approach: recovery.Amnesia, Class: recovery.Arbitrary}
		}, vfs.OS(), judge.Passed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s.letIn, s.blind, s.digest, s.cfg = false, new(time.Duration), digest, s.config(t, well)
			tc.set(&s.cfg)
			res := New(tc.fs, clock.System(), s, s.cfg, Options{Limit: time.Minute}).Lint(t.Context())
			v := res.Judge(nil)
			if text := strings.Join(v.Sentences(), "\n"); v.Outcome != tc.outcome || !strings.Contains(text, tc.why) {
				t.Errorf("%s: %s", v.Outcome, text)
			}
			rep := res.Report
			rep.Format, rep.Version, rep.Number = evidence.Format, evidence.Version, 1
			if _, err := rep.Encode(); err != nil || rep.Level != evidence.L0 || rep.Recovered.Actual != nil {
				t.Errorf("%v: %+v", err, rep)
			}
			if left, err := os.ReadDir(s.scratch); err == nil && len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
		})
	}
}
