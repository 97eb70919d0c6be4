package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/vfs"
)

// start runs an embedded member until the test ends, and a store on it.
func start(t *testing.T, dir string) (s *Store, stop func()) {
	t.Helper()
	cfg := Config{Dir: dir}.SetDefaults()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	srv := NewServer(vfs.OS(), slog.New(slog.DiscardHandler), "demo", cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }() // owned by stop
	select {
	case <-srv.Ready():
	case err := <-done:
		t.Fatalf("run: %v", err)
	}
	s, err := Open("demo", cfg)
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = s.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(stop)
	return s, stop
}

func record(t *testing.T, id tidegate.StreamID) fence.EpochRecord {
	t.Helper()
	r, err := fence.NewRecord(id, fence.Config{Members: []fence.Member{{Node: "n1", Incarnation: tidegate.NewID()}}, W: 1},
		fence.GateRecord{State: fence.GateArmed, Mode: tidegate.ModeSync})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCommitIsAllOrNothing(t *testing.T) {
	s, _ := start(t, t.TempDir())
	ctx := t.Context()
	a, b := tidegate.NewID(), tidegate.NewID()
	rev, err := s.Commit(ctx, new(Tx).Unchanged(EpochKey(a), 0).Unchanged(EpochKey(b), 0).
		Put(EpochKey(a), record(t, a)).Put(EpochKey(b), record(t, b)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.ReadEpochs(ctx, b, a, tidegate.NewID())
	if err != nil {
		t.Fatal(err)
	}
	if got[0].Value.Stream != b || got[1].Value.Stream != a || got[0].Revision != rev || got[2].Revision != 0 {
		t.Fatalf("epochs read back: %+v", got)
	}
	// One stream has moved on: the other one must not change either.
	if _, err := s.Commit(ctx, new(Tx).Unchanged(EpochKey(a), rev).Put(EpochKey(a), record(t, a))); err != nil {
		t.Fatal(err)
	}
	_, err = s.Commit(ctx, new(Tx).Unchanged(EpochKey(a), rev).Unchanged(EpochKey(b), rev).Put(EpochKey(b), record(t, b)))
	if !errors.Is(err, tidegate.ErrConflict) || tidegate.ClassOf(err) != tidegate.Transient {
		t.Fatalf("commit over a changed key: %v", err)
	}
	if e, ok := errors.AsType[*tidegate.Error](err); !ok || e.Subject != string(EpochKey(a)) {
		t.Errorf("the key that had changed is %s, told is %v", EpochKey(a), err)
	}
	if after, _ := s.ReadEpochs(ctx, b); after[0].Revision != rev {
		t.Fatalf("half a transaction was written: revision %d, want %d", after[0].Revision, rev)
	}
	bad := record(t, b)
	bad.Epoch = 9 // breaks the record's first invariant
	if _, err := s.Commit(ctx, new(Tx).Put(EpochKey(b), bad)); err == nil {
		t.Fatal("a record that breaks its invariants was written")
	}
}

func TestViewAndFollow(t *testing.T) {
	s, _ := start(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	id := tidegate.NewID()
	svc := Service{Name: "ledger", RPO: time.Second, Routes: []string{"front"}, Endpoints: map[tidegate.SiteName][]string{"east": {"h:1"}}}
	str := Stream{ID: id, Service: "ledger", Name: "journal", Store: "journal", Mode: tidegate.ModeSync, Policy: tidegate.Policy{Reaction: tidegate.ReactBlock}, Members: []tidegate.NodeName{"n1"}, W: 1}
	node := Node{Name: "n1", Kind: KindStandby, Site: "west", Incarnation: tidegate.NewID()}
	before, err := s.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	views := make(chan *View, 16)
	done := make(chan error, 1)
	go func() { done <- s.Follow(ctx, before.Revision, func(v *View) { views <- v }) }() // ends with cancel below
	if _, err := s.Commit(ctx, new(Tx).Put(ServiceKey("ledger"), svc).Put(StreamKey(id), str).Put(NameKey("ledger", "journal"), id).
		Put(NodeKey(KindStandby, "n1"), node).Put(EpochKey(id), record(t, id)).Put(RouteKey("ledger"), Route{Service: "ledger", Epoch: 3})); err != nil {
		t.Fatal(err)
	}
	v := <-views
	if d := cmp.Diff(svc, v.Services["ledger"].Value); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]Stream{str}, v.StreamsOf("ledger")); d != "" {
		t.Error(d)
	}
	if n, ok := v.Node(KindStandby, "n1"); !ok || n != node {
		t.Errorf("node %+v, %v", n, ok)
	}
	if v.Routes["ledger"].Value.Epoch != 3 || v.Epochs[id].Value.Stream != id {
		t.Errorf("view %+v", v)
	}
	if _, err := s.Commit(ctx, new(Tx).Delete(ServiceKey("ledger"))); err != nil {
		t.Fatal(err)
	}
	if v = <-views; len(v.Services) != 0 {
		t.Errorf("deleted service is still seen: %+v", v.Services)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestOldLeaderCannotWrite(t *testing.T) {
	s, _ := start(t, t.TempDir())
	ctx := t.Context()
	first, err := s.Campaign(ctx, "gate-a", 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if who, err := s.Leader(ctx); err != nil || who != "gate-a" {
		t.Fatalf("leader %q, %v", who, err)
	}
	if _, err := s.Commit(ctx, new(Tx).Leading(first).Put(PlanKey("1"), 1)); err != nil {
		t.Fatal(err)
	}
	if err := first.Resign(ctx); err != nil {
		t.Fatal(err)
	}
	second, err := s.Campaign(ctx, "gate-b", 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(ctx, new(Tx).Leading(first).Put(PlanKey("2"), 1)); !errors.Is(err, tidegate.ErrConflict) {
		t.Fatalf("the old leader wrote: %v", err)
	}
	if _, err := s.Commit(ctx, new(Tx).Leading(second).Put(PlanKey("2"), 1)); err != nil {
		t.Fatal(err)
	}
	plans, err := s.Plans(ctx, "", "", 10)
	if err != nil || len(plans) != 2 {
		t.Fatalf("plans %d, %v", len(plans), err)
	}
}

func TestRestartedGateDoesNotWaitBehindItself(t *testing.T) {
	s, _ := start(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	const ttl = time.Minute
	killed, err := s.Campaign(ctx, "gate-a", ttl)
	if err != nil {
		t.Fatal(err)
	}
	killed.session.Orphan() // what a kill leaves behind: a turn that nobody keeps up or resigns
	again, err := s.Campaign(ctx, "gate-a", ttl)
	if err != nil {
		t.Fatalf("the same gate again: %v", err)
	}
	if _, err := s.Commit(ctx, new(Tx).Leading(killed).Put(PlanKey("1"), 1)); !errors.Is(err, tidegate.ErrConflict) {
		t.Fatalf("the killed run wrote: %v", err)
	}
	if _, err := s.Commit(ctx, new(Tx).Leading(again).Put(PlanKey("1"), 1)); err != nil {
		t.Fatal(err)
	}
	// Another gate's turn is not touched.
	waiting, stop := context.WithTimeout(ctx, 500*time.Millisecond)
	defer stop()
	if _, err := s.Campaign(waiting, "gate-b", ttl); err == nil {
		t.Fatal("gate-b leads beside gate-a")
	}
	if who, err := s.Leader(ctx); err != nil || who != "gate-a" {
		t.Fatalf("leader %q, %v", who, err)
	}
}

func TestUnreachableIsTransientWithHint(t *testing.T) {
	s, err := Open("demo", Config{Dir: t.TempDir(), Timeout: 200 * time.Millisecond}.SetDefaults())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = s.Read(t.Context())
	if !Unreachable(err) || tidegate.ClassOf(err) != tidegate.Transient || tidegate.HintOf(err) == "" {
		t.Fatalf("read of a registry that is down: %v (class %s, hint %q)", err, tidegate.ClassOf(err), tidegate.HintOf(err))
	}
}

func TestRestoredBackupIsRecognised(t *testing.T) {
	dir := t.TempDir()
	s, stop := start(t, dir)
	if suspect, err := s.Suspect(t.Context(), vfs.OS(), dir); err != nil || suspect != "" {
		t.Fatalf("first start: %q, %v", suspect, err)
	}
	if err := s.SaveMark(t.Context(), vfs.OS(), dir); err != nil {
		t.Fatal(err)
	}
	stop()
	backup := filepath.Join(t.TempDir(), "backup")
	if err := os.CopyFS(backup, os.DirFS(filepath.Join(dir, "etcd"))); err != nil {
		t.Fatal(err)
	}
	s, stop = start(t, dir)
	if _, err := s.Commit(t.Context(), new(Tx).Put(PlanKey("1"), 1)); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveMark(t.Context(), vfs.OS(), dir); err != nil {
		t.Fatal(err)
	}
	if suspect, err := s.Suspect(t.Context(), vfs.OS(), dir); err != nil || suspect != "" {
		t.Fatalf("nothing was restored: %q, %v", suspect, err)
	}
	stop()
	if err := os.RemoveAll(filepath.Join(dir, "etcd")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, "etcd"), os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	s, _ = start(t, dir)
	if suspect, err := s.Suspect(t.Context(), vfs.OS(), dir); err != nil || suspect == "" {
		t.Fatalf("a restored backup went unnoticed: %q, %v", suspect, err)
	}
}

func TestConfigNamesEveryMistake(t *testing.T) {
	err := Config{Endpoints: []string{""}, TLS: TLS{Cert: "c"}, Timeout: 1, LeaderTTL: 1}.Validate()
	want := 5
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != want {
		t.Fatalf("want %d mistakes, got: %v", want, err)
	}
}

func TestPlansArePagedAndPruned(t *testing.T) {
	s, _ := start(t, t.TempDir())
	ctx := t.Context()
	lead, err := s.Campaign(ctx, "gate-a", 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	const n = 120 // more than one transaction reads
	for i := range n {
		for _, of := range []tidegate.ServiceName{"books", "ledger"} {
			id := fmt.Sprintf("%03d-%s", i, of)
			if _, err := s.Commit(ctx, new(Tx).Leading(lead).NewPlan(id, of, id)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := s.Commit(ctx, new(Tx).NewPlan("000-books", "books", "again")); !errors.Is(err, tidegate.ErrConflict) {
		t.Fatalf("a plan was written twice: %v", err)
	}
	ids := func(of tidegate.ServiceName, before string, limit int) []string {
		t.Helper()
		plans, err := s.Plans(ctx, of, before, limit)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, p := range plans {
			if string(p.Record) != `"`+p.ID+`"` || p.Revision == 0 {
				t.Errorf("plan %s holds %s at revision %d", p.ID, p.Record, p.Revision)
			}
			out = append(out, p.ID)
		}
		return out
	}
	if d := cmp.Diff([]string{"119-ledger", "118-ledger"}, ids("ledger", "", 2)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"117-ledger"}, ids("ledger", "118-ledger", 1)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"119-ledger", "119-books", "118-ledger"}, ids("", "", 3)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"118-books"}, ids("", "118-ledger", 1)); d != "" {
		t.Error(d)
	}
	if got := ids("ledger", "", 0); len(got) != n {
		t.Errorf("%d plans, want all %d", len(got), n)
	}
	over := func(b json.RawMessage) (bool, error) { return string(b) != `"003-ledger"`, nil }
	for {
		k, err := s.PrunePlans(ctx, lead, "ledger", 20, over)
		if err != nil {
			t.Fatal(err)
		}
		if k == 0 {
			break
		}
	}
	got := ids("ledger", "", 0)
	if len(got) != 21 || got[0] != "119-ledger" || got[20] != "003-ledger" {
		t.Errorf("kept %v: want the newest, and the oldest one, which is not over", got)
	}
	if len(ids("books", "", 0)) != n {
		t.Error("another service's plans were pruned")
	}
	if err := lead.Resign(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.PrunePlans(ctx, lead, "books", 1, over); !errors.Is(err, tidegate.ErrConflict) {
		t.Errorf("a gate that does not lead pruned: %v", err)
	}
}
