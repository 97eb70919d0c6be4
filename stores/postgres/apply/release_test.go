package apply

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/internal/pgtest"
)

// A node with programs of another major release says so before it restores
// anything.
func TestBaseOfAnotherRelease(t *testing.T) {
	o := newOrigin(t, pgtest.Config{})
	o.release = "99.1 (elsewhere)"
	conn := o.connect(t)
	o.takeBase(t, conn, 2)
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	w, n := newWarm(t, o)
	n.change(func() { n.follow, n.of = true, 2 })
	w.start()
	n.until("a finding", func() bool { return strings.Contains(n.finding, "release 99.1") })
	if _, err := os.Stat(filepath.Join(w.cfg.Server.Home, "cluster", "data", "PG_VERSION")); !os.IsNotExist(err) {
		t.Errorf("it was restored: %v", err)
	}
}

func TestMajorOf(t *testing.T) {
	for version, want := range map[string]string{"15.18 (Debian 15.18-0+deb12u1)": "15", "18beta1": "18", "17": "17", "": "", "devel": ""} {
		if got := majorOf(version); got != want {
			t.Errorf("%q: %q, want %q", version, got, want)
		}
	}
}
