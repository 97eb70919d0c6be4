package standby

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/live"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/pki"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/snapshot"
)

// A node's log reads like an archive's, up to what is committed, for who has an
// operator's certificate.
func TestNodeAsAnArchive(t *testing.T) {
	c := newCluster(t, 1, nil, "dr1")
	w := c.start1()
	w.attach("dr1")
	w.seal(20, 1000)
	w.seal(1, 200_000) // more than a segment by itself
	w.seal(5, 1000)
	c.committed(w, 26, "dr1")
	cfg := live.Config{
		Dialer: shipper.Dialer{TLS: c.creds(tidegate.RoleOperator, "ada").ClientTLS(pki.Expect{Role: tidegate.RoleStandby}), Clock: clock.System()},
		Addr:   c.nodes["dr1"].n.Identity().Ship, Node: "dr1", FS: vfs.NewMem(), SegmentBytes: 5000,
		Streams: []archive.StreamInfo{{Stream: theStream, Service: "ledger", Name: "main", Store: storeJournal}},
	}
	b := live.New(cfg)
	r, err := archive.OpenReader(c.ctx(), b)
	if err != nil {
		t.Fatal(err)
	}
	infos, faults, err := r.Streams(c.ctx())
	if err != nil || len(infos) != 1 || len(faults) > 0 {
		t.Fatalf("streams %v, %v, %v", infos, faults, err)
	}
	s, err := r.Open(c.ctx(), infos[0])
	if err != nil {
		t.Fatal(err)
	}
	if tip := s.Branch.Tip(); tip.Seq != 26 || len(s.Branch.Segments) < 5 || len(s.Branch.Holes)+len(s.Aside()) > 0 {
		t.Errorf("%+v", s.Branch)
	}
	bases, err := s.Bases(c.ctx())
	if err != nil || len(bases.All) > 0 {
		t.Fatalf("bases %v, %v", bases, err)
	}
	v, err := s.Verify(c.ctx(), bases, &archive.VerifyMeter{})
	if err != nil || len(v.Bad) > 0 || v.Batches != 26 {
		t.Errorf("%+v, %v", v, err)
	}
	name := s.Branch.Segments[1].Name(theStream)
	whole, o, err := bucket.ReadAll(c.ctx(), b, name, 1<<20)
	if err != nil || o.Size != int64(len(whole)) || o.Size != s.Size(s.Branch.Segments[1]) {
		t.Fatalf("%s has %d bytes, %+v, %v", name, len(whole), o, err)
	}
	part, err := b.Get(c.ctx(), name, 100, 50)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(part)
	if err = errors.Join(err, part.Close()); err != nil || !bytes.Equal(got, whole[100:150]) {
		t.Errorf("%d bytes from 100 on, %v", len(got), err)
	}
	if _, err := b.Put(c.ctx(), name, bytes.NewReader(nil), bucket.PutOptions{}); !errors.Is(err, tidegate.ErrUnsupported) {
		t.Errorf("something is put: %v", err)
	}
	cfg.Dialer.TLS = c.creds(tidegate.RoleDrill, "dora").ClientTLS(pki.Expect{Role: tidegate.RoleStandby})
	if r, err = archive.OpenReader(c.ctx(), live.New(cfg)); err != nil {
		t.Fatal(err)
	}
	if s, err := r.Open(c.ctx(), infos[0]); err != nil || s.Branch.Tip().Seq != 26 {
		t.Errorf("a drill reads what it rehearses with: %v", err)
	}
	cfg.Dialer.TLS = c.creds(tidegate.RoleViewer, "vic").ClientTLS(pki.Expect{Role: tidegate.RoleStandby})
	if r, err = archive.OpenReader(c.ctx(), live.New(cfg)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Open(c.ctx(), infos[0]); tidegate.ClassOf(err) != tidegate.Refused {
		t.Errorf("a viewer reads the log: %v", err)
	}
}

// TestOlderBaseOfANode: a node says which bases it holds, and gives the one that is asked
// for, not the newest only.
func TestOlderBaseOfANode(t *testing.T) {
	c := newBaseCluster(t, 1, nil, "dr1")
	w := c.start1()
	w.attach("dr1")
	w.sealLineage("pg:1:1", "")
	content := noise(1 << 20)
	w.mustPush("dr1", 1, content)
	w.seal(20, 1000)
	w.mustShip()
	nd := c.nodes["dr1"]
	c.until("dr1 knows what is committed", func() bool { s := nd.status(); return s.Err == "" && s.Commit == 21 })
	newer := bytes.Clone(content)
	newer[12345]++
	c.refreshing("dr1", &service{content: [][]byte{newer}, base: snapshot.Base{Start: 4000, End: 15_000, Lineage: "pg:1:1"}})
	if err := AskRefresh(nd.fs, nd.dir, theStream); err != nil {
		t.Fatal(err)
	}
	c.until("dr1 has the new base", func() bool { return len(nd.status().Bases) == 2 })
	told := descriptionMessage(nd.status(), tidegate.ID{}).GetBases()
	if len(told) != 2 || told[0].GetStart() != 0 || told[1].GetStart() != 4000 || told[1].GetEnd() != 15_000 || told[0].GetBytes() != 1<<20 || told[0].GetOpened() == 0 {
		t.Fatalf("told: %v", told)
	}
	oldest, err := snapshot.ParseName(told[0].GetName())
	if err != nil {
		t.Fatal(err)
	}
	b := live.New(live.Config{
		Dialer: shipper.Dialer{TLS: c.creds(tidegate.RoleOperator, "ada").ClientTLS(pki.Expect{Role: tidegate.RoleStandby}), Clock: clock.System()},
		Addr:   nd.n.Identity().Ship, Node: "dr1", FS: vfs.NewMem(), Stage: "/stage",
		Streams: []archive.StreamInfo{{Stream: theStream, Service: "ledger", Name: "main", Store: "postgres"}},
	})
	if err := b.Fetch(c.ctx(), theStream, snapshot.Name{1}); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("one that it does not hold: %v", err)
	}
	if err := b.Fetch(c.ctx(), theStream, oldest); err != nil {
		t.Fatal(err)
	}
	r, err := archive.OpenReader(c.ctx(), b)
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Open(c.ctx(), archive.StreamInfo{Stream: theStream, Service: "ledger", Name: "main", Store: "postgres"})
	if err != nil {
		t.Fatal(err)
	}
	bases, err := s.Bases(c.ctx())
	if err != nil {
		t.Fatal(err)
	}
	defer bases.Close()
	if len(bases.All) != 1 || bases.All[0].Name != oldest {
		t.Fatalf("fetched: %v", bases.All)
	}
	got, err := bases.All[0].Store.Reader(bases.All[0].Listed)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	var text bytes.Buffer
	if err := got.Copy(c.ctx(), 0, &text); err != nil || !bytes.Equal(text.Bytes(), content) {
		t.Errorf("%d bytes of the older base differ, %v", text.Len(), err)
	}
}
