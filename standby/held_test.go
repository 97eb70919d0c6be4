package standby

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/quarantine"
	"github.com/tidegate/tidegate/snapshot"
)

// A base that is damaged and that what is left stands for is set aside, and said; the
// one that the log rests on puts the stream into limbo, and stays where it is.
func TestDamagedBaseIsSetAsideOnlyIfNobodyNeedsIt(t *testing.T) {
	c, w := seeded(t, BasePolicy{LookEvery: time.Hour, RefreshOff: true}, noise(1000), "dr1")
	c.renewed("dr1", 2000, noise(2000))
	w.close()
	nd := c.nodes["dr1"]
	dir := filepath.Join(streamDir(nd.dir, theStream), baseDirName)
	damage := func(l snapshot.Listed) string {
		t.Helper()
		if err := nd.stop(); err != nil {
			t.Fatal(err)
		}
		path := snapshot.ManifestPath(dir, l.Generation, l.Name.String())
		if err := os.WriteFile(path, []byte("no manifest"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	list := nd.n.stream(theStream).bases.store.Bases()
	if len(list) != 2 {
		t.Fatalf("%d bases", len(list))
	}
	path := damage(list[1])
	nd.start()
	c.until("it counts as before", func() bool {
		s := nd.n.stream(theStream)
		return s != nil && s.fault == nil && nd.status().Durable.Seq == tidegate.Seq(len(w.log))
	})
	name := list[1].Name.String()[:12]
	if f := nd.status().Findings; !slices.ContainsFunc(f, func(f local.Finding) bool {
		return f.Name == findingLost && strings.Contains(f.Text, name) && f.Hint != ""
	}) {
		t.Errorf("findings %+v", f)
	}
	found, err := quarantine.Find(nd.dir)
	if err != nil || len(found) != 1 || found[0].Kind != quarantine.KindBaseAside || found[0].State != quarantine.StateWhole {
		t.Errorf("quarantine: %+v, %v", found, err)
	}
	if known, err := exists(nd.fs, path); known || err != nil {
		t.Errorf("the manifest is in the way: %v, %v", known, err)
	}

	path = damage(list[0])
	for range 2 { // nothing is changed by looking
		nd.start()
		c.until("dr1 is in limbo", func() bool { s := nd.n.stream(theStream); return s != nil && s.fault != nil })
		if st := nd.status(); !st.Limbo || !strings.Contains(st.Err, "which was counted on") {
			t.Errorf("%+v", st)
		}
		if err := nd.stop(); err != nil {
			t.Fatal(err)
		}
		if known, err := exists(nd.fs, path); !known || err != nil {
			t.Errorf("the manifest is gone: %v, %v", known, err)
		}
	}
}
