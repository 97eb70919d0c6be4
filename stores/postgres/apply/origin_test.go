package apply

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// origin is a real primary, a base of it, and its log cut into batches as an
// agent would.
type origin struct {
	*pgtest.Server
	store   *snapshot.Store
	bases   string // the store's directory
	size    wal.SegmentSize
	line    wal.Lineage
	release string // that the next base says it is of; empty is the server's

	mu      sync.Mutex
	log     []entry
	changed chan struct{}
}

// entry is a committed batch: log, or from which lineage on.
type entry struct {
	lineage     tidegate.Lineage // not empty: a lineage batch
	first, next wal.LSN
	bytes       []byte
}

const slotName = "tidegate"

// newOrigin starts a primary with pgbench's tables, takes a base of it and begins
// to receive its log.
func newOrigin(t *testing.T, cfg pgtest.Config) *origin {
	t.Helper()
	o := &origin{Server: pgtest.New(t, cfg), changed: make(chan struct{})}
	o.BenchInit(t, 1)
	conn := o.connect(t)
	if _, err := conn.CreateSlot(t.Context(), slotName, false); err != nil {
		t.Fatal(err)
	}
	var err error
	if o.size, err = conn.SegmentSize(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, o.line, err = conn.Lineage(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.bases = filepath.Join(t.TempDir(), "bases")
	if o.store, err = snapshot.Open(vfs.OS(), o.bases, snapshot.StoreConfig{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.store.Close)
	start := o.takeBase(t, conn, 1)
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	o.log = append(o.log, entry{lineage: o.line.Text()})
	o.receive(t, o.size.Start(start))
	return o
}

func (o *origin) connect(t *testing.T) *replication.Conn {
	t.Helper()
	conn, err := replication.Connect(t.Context(), replication.Config{Conn: o.Conn(), ApplicationName: "origin"})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// takeBase keeps a base in the store and returns its redo.
func (o *origin) takeBase(t *testing.T, conn *replication.Conn, g tidegate.Generation) wal.LSN {
	t.Helper()
	in, err := o.store.Intake()
	if err != nil {
		t.Fatal(err)
	}
	info := snapshot.Info{Stream: theStream, Generation: g, Opened: 1, Taken: 1}
	var start wal.LSN
	m, err := snapshot.Build(t.Context(), in, snapshot.BuildConfig{}, info, func(ctx context.Context, w snapshot.Writer) (snapshot.Base, error) {
		b, err := conn.BaseBackup(ctx, replication.BackupOptions{}, w)
		start = b.Start
		return snapshot.Base{
			Start: o.size.Start(b.Start).Position(), End: b.End.Position(), Lineage: o.line.Text(),
			Attrs: map[string]string{AttrRelease: cmp.Or(o.release, conn.VersionText())},
		}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	text, _, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Commit(t.Context(), text, func(snapshot.Info) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	return start
}

// receive cuts the log into batches at record ends, from a segment's start on,
// until the test or the primary ends.
func (o *origin) receive(t *testing.T, from wal.LSN) {
	t.Helper()
	s, err := o.connect(t).Start(t.Context(), replication.StartOptions{Slot: slotName, Timeline: o.line.Timeline(), From: from})
	if err != nil {
		t.Fatal(err)
	}
	p := o.parser(t)
	p.Begin(from)
	o.take(t, s, p, from)
}

func (o *origin) parser(t *testing.T) *wal.Parser {
	t.Helper()
	p, err := wal.NewParser(wal.Config{SegmentSize: o.size, System: o.line.System})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// failOver goes on with a replica of the primary that was promoted.
func (o *origin) failOver(t *testing.T, to *pgtest.Server) {
	t.Helper()
	end := o.end()
	o.Server = to
	conn := o.connect(t)
	var err error
	if _, o.line, err = conn.Lineage(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = conn.Start(t.Context(), replication.StartOptions{Timeline: 1, From: end})
	var fork *replication.TimelineEnd
	if !errors.As(err, &fork) {
		t.Fatalf("the replica was promoted behind %s, where the log ends: %v", end, err)
	}
	o.add(entry{lineage: o.line.Text(), next: end})
	s, err := o.connect(t).Start(t.Context(), replication.StartOptions{Timeline: o.line.Timeline(), From: end})
	if err != nil {
		t.Fatal(err)
	}
	p := o.parser(t)
	if err := p.Resume(wal.Mark{End: end}); err != nil {
		t.Fatal(err)
	}
	o.take(t, s, p, end)
}

// take cuts what a stream brings, beside the test.
func (o *origin) take(t *testing.T, s *replication.Stream, p *wal.Parser, at wal.LSN) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		var held []byte
		for {
			m, err := s.Receive()
			if err != nil {
				if t.Context().Err() == nil && !errors.Is(err, tidegate.ErrStopped) {
					t.Logf("origin's log ended: %v", err)
				}
				return
			}
			if m.Keepalive() {
				continue
			}
			if err := p.Push(m.Start, m.Data); err != nil {
				t.Errorf("origin's log: %v", err)
				return
			}
			held = append(held, m.Data...)
			if end := p.End(); end > at && p.Padding() == 0 {
				n := int(end - at)
				o.add(entry{first: at, next: end, bytes: bytes.Clone(held[:n])})
				held, at = append(held[:0], held[n:]...), end
				_ = s.Status(replication.Status{Write: end, Flush: end}) // the end is heard of by Receive
			}
		}
	})
	t.Cleanup(func() { _ = s.Close(); wg.Wait() })
}

func (o *origin) add(e entry) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.log = append(o.log, e)
	close(o.changed)
	o.changed = make(chan struct{})
}

// entries returns those from i on, and what is closed when there are more.
func (o *origin) entries(i int) ([]entry, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.log[i:], o.changed
}

func (o *origin) end() wal.LSN {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.log[len(o.log)-1].next
}

// flushed is where the primary's log ends, and waits until the batches reach it.
func (o *origin) flushed(t *testing.T) wal.LSN {
	t.Helper()
	lsn, err := wal.ParseLSN(o.SQL(t, "SELECT pg_current_wal_flush_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Until(t, fmt.Sprintf("batches to reach %s", lsn), func(context.Context) error {
		if end := o.end(); end < lsn {
			return fmt.Errorf("they end at %s", end)
		}
		return nil
	})
	return o.end()
}

var theStream = func() (id tidegate.StreamID) { _, _ = rand.Read(id[:]); return id }()

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
