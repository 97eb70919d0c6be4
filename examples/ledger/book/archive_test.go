package book

import (
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/archivetest"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	cold "github.com/tidegate/tidegate/archive/restore"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/journal"
	"github.com/tidegate/tidegate/stores/journal/base"
	"github.com/tidegate/tidegate/stores/journal/capture"
	"github.com/tidegate/tidegate/stores/journal/restore"
)

// moves are transfers between accounts that opens has opened.
func moves(tb testing.TB, from, n, accounts int) (out [][]byte) {
	tb.Helper()
	for i := from; i < from+n; i++ {
		cmd := ledger.Command{
			Kind: ledger.KindDeposit, Currency: ledger.EUR, TimeUnix: int64(i + 1), Client: ledger.ClientID{1}, Request: ledger.Request(i + 1),
			To: ledger.AccountID("a-" + string(rune('0'+i%accounts))), Amount: ledger.Amount(i + 1),
		}
		rec, err := cmd.Append(nil)
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, rec)
	}
	return out
}

// TestRestoredBookHasItsState restores a book out of an archive alone, to random points, from its log and from
// the state and the log behind it: the accounts are those of then.
func TestRestoredBookHasItsState(t *testing.T) {
	b := open(t, t.TempDir()).Book(ledger.EUR)
	appendAll(t, b, append(opens(t, 0, 10), moves(t, 10, 310, 10)...))
	m := archivetest.New(t, dir.New(vfs.OS(), t.TempDir()), "journal")
	archiveBook(t, m, b)

	var then []ledger.Checkpoint
	at := newBook(ledger.EUR, b.dir, b.journal)
	r, err := b.journal.NewReader(0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }() // only read
	for {
		rec, ok, err := r.TryNext()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		if err := at.Apply(rec); err != nil {
			t.Fatal(err)
		}
		if then = append(then, at.Digest()); rec.Number%160 == 80 {
			now := at.Digest()
			m.State(t, base.State{Position: now.Position, Records: rec.Number, Digest: now.Digest, Lineage: b.journal.Lineage()}, 1, at.Snapshot())
		}
	}
	reader, err := archive.OpenReader(t.Context(), m.B)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := reader.Open(t.Context(), m.Info)
	if err != nil {
		t.Fatal(err)
	}
	bases, err := stream.Bases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer bases.Close()
	random := rand.New(rand.NewPCG(1, 9))
	receipts, kept := b.Receipts()
	if len(receipts) != len(then) || !kept {
		t.Fatalf("%d receipts of %d records", len(receipts), len(then))
	}
	based, executed := 0, 0
	for i := range 20 {
		want := then[random.IntN(len(then))]
		choice := []string{"", "", cold.NoBase}[i%3]
		plan, err := cold.Choose(t.Context(), stream, bases, cold.Choice{To: cold.To{Position: want.Position}, Base: choice})
		if err != nil {
			t.Fatal(err)
		}
		if plan.Base != nil {
			based++
		}
		got, again := restored(t, plan)
		if got != want {
			t.Errorf("restored to %s, from %s: %+v, want %+v", want.Position, plan.From(), got, want)
		}
		if begin := slices.IndexFunc(receipts, func(r Receipt) bool { return r.At >= plan.From() }); begin >= 0 && len(again) > 0 {
			if d := cmp.Diff(receipts[begin:begin+len(again)], again); d != "" || again[len(again)-1].Next != want.Position {
				t.Errorf("executed anew from %s up to %s: -want +got:\n%s", plan.From(), want.Position, d)
			}
			executed++
		}
	}
	if based < 5 || executed < 15 {
		t.Errorf("%d were from a state, %d executed anew", based, executed)
	}
}

// restored is what a book comes to whose journal a plan has restored, and the receipts of
// that journal carried out once more.
func restored(t *testing.T, plan *cold.Plan) (now ledger.Checkpoint, again []Receipt) {
	t.Helper()
	into := filepath.Join(t.TempDir(), "into")
	res, err := plan.Run(t.Context(), cold.Target{FS: vfs.OS(), Clock: clock.System(), Dir: into}, restore.New(vfs.OS(), restore.Config{Dir: into}), &cold.Meter{})
	if err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(res.Path, journal.Config{Service: "ledger", Stream: "eur", ID: HistoryID("test", ledger.EUR)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}()
	b := newBook(ledger.EUR, res.Path, j)
	if err := b.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Execute(t.Context(), func(r Receipt) error { again = append(again, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return b.Digest(), again
}

func archiveBook(t *testing.T, m *archivetest.Maker, b *Book) {
	t.Helper()
	m.Lineage(t, b.journal.Lineage(), "")
	c, err := capture.New(vfs.OS(), b.dir).Follow(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }() // only read
	for m.At < b.journal.End() {
		u, err := c.Read(b.journal.End(), 2<<10)
		if err != nil {
			t.Fatal(err)
		}
		m.Data(t, u.Payload, u.Records, u.Oldest, u.Newest)
	}
	m.Segment(t)
}
