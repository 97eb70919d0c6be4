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
	cfg.Dialer.TLS = c.creds(tidegate.RoleViewer, "vic").ClientTLS(pki.Expect{Role: tidegate.RoleStandby})
	if r, err = archive.OpenReader(c.ctx(), live.New(cfg)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Open(c.ctx(), infos[0]); tidegate.ClassOf(err) != tidegate.Refused {
		t.Errorf("a viewer reads the log: %v", err)
	}
}
