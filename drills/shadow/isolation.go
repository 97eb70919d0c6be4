package shadow

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
)

// whoami is what the drill's own certificate allows.
func whoami(id tidegate.Identity) evidence.Check {
	got := id.String()
	c := evidence.Check{Name: "identity", Kind: "isolation", Wanted: "a certificate of role drill and of nothing else", Got: &got, Outcome: evidence.CheckPassed}
	if id.Role != tidegate.RoleDrill {
		c.Outcome, c.Why = evidence.CheckFailed, fmt.Sprintf("it may do what role %s may", id.Role)
	}
	return c
}

// apart looks whether the sandbox is nobody's: scratch lies in no live directory and in
// none of a daemon's, and live directories cannot be written by this process.
func apart(scratch string, lives []string) []evidence.Check {
	at := resolved(scratch)
	place := evidence.Check{Name: "sandbox", Kind: "isolation", Wanted: "a directory that is no daemon's", Got: &at, Outcome: evidence.CheckPassed}
	if why := occupied(at, lives); why != "" {
		place.Outcome, place.Why = evidence.CheckFailed, why
	}
	all := []evidence.Check{place}
	for _, live := range lives {
		c := evidence.Check{Name: "live directory " + live, Kind: "isolation", Wanted: "it is not there, or this process cannot write it", Outcome: evidence.CheckPassed}
		got := "it cannot be written"
		switch err := unix.Access(live, unix.W_OK); {
		case err == nil:
			got = "it can be written"
			c.Outcome, c.Why = evidence.CheckFailed, "this process can write it: run the drill as a user of its own"
		case errors.Is(err, unix.ENOENT):
			got = "it is not there"
		case !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EROFS):
			got = err.Error()
			c.Outcome, c.Why = evidence.CheckUnknown, "nobody says whether this process can write it"
		}
		c.Got = &got
		all = append(all, c)
	}
	return all
}

// resolved is where a path leads, whose end may not be there yet.
func resolved(path string) string {
	path = filepath.Clean(path)
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if dir := filepath.Dir(path); dir != path {
		return filepath.Join(resolved(dir), filepath.Base(path))
	}
	return path
}

// daemonFiles are what lies in the data directory of a daemon, or of a journal.
var daemonFiles = []string{"node.json", "run.json", "meta.json"}

// occupied says whose directory a path lies in; empty: nobody's.
func occupied(at string, lives []string) string {
	for _, live := range lives {
		live := resolved(live)
		if at == live || strings.HasPrefix(at, strings.TrimSuffix(live, "/")+"/") {
			return "it lies in the live directory " + live
		}
	}
	for dir := at; ; dir = filepath.Dir(dir) {
		for _, name := range daemonFiles {
			if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
				return fmt.Sprintf("it lies in %s, which is a daemon's or a journal's: it has %s", dir, name)
			}
		}
		if dir == filepath.Dir(dir) {
			return ""
		}
	}
}

// breached is an error when a drill could do what it must not.
func breached(all []evidence.Check) error {
	var errs []error
	for _, c := range all {
		if c.Outcome == evidence.CheckFailed {
			errs = append(errs, fmt.Errorf("%s: %s", c.Name, c.Why))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return &tidegate.Error{
		Op: "isolate", Subject: "drill", Class: tidegate.Refused, Err: errors.Join(errs...),
		Hint: "a drill starts only where it can do no harm: docs/operating/drills.md",
	}
}
