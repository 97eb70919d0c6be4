package book

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(tb testing.TB, dir string) *Shelf {
	tb.Helper()
	s, err := Open(slog.New(slog.DiscardHandler), Config{Dir: dir, Service: "ledger", History: "test", Receipts: 400})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return s
}

func opens(tb testing.TB, from, n int) [][]byte {
	tb.Helper()
	var out [][]byte
	for i := from; i < from+n; i++ {
		cmd := ledger.Command{
			Kind: ledger.KindOpen, Currency: ledger.EUR, TimeUnix: int64(i + 1), Client: ledger.ClientID{1},
			Request: ledger.Request(i + 1), To: ledger.AccountID(fmt.Sprintf("a-%d", i)),
		}
		rec, err := cmd.Append(nil)
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, rec)
	}
	return out
}

func appendAll(tb testing.TB, b *Book, recs [][]byte) {
	tb.Helper()
	if _, err := b.Append(tb.Context(), recs); err != nil {
		tb.Fatal(err)
	}
}

func TestAppendAgainComparesAndChangesNothing(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	b := s.Book(ledger.EUR)
	recs := opens(t, 0, 30)
	appendAll(t, b, recs)
	want := b.Digest()
	end := b.Journal().End()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	// Raft replays its log over a journal that has it all.
	b = open(t, dir).Book(ledger.EUR)
	appendAll(t, b, recs[:11])
	appendAll(t, b, recs[11:])
	if got := b.Digest(); got != want || b.Journal().End() != end {
		t.Errorf("after the replay %+v and %s, want %+v and %s", got, b.Journal().End(), want, end)
	}
}

func TestAppendOfOtherRecordsBreaksTheBook(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	appendAll(t, s.Book(ledger.EUR), opens(t, 0, 3))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b := open(t, dir).Book(ledger.EUR)
	if _, err := b.Append(t.Context(), opens(t, 50, 1)); !errors.Is(err, tidegate.ErrDiverged) {
		t.Fatalf("got %v, want diverged", err)
	}
	if b.Broken() == nil {
		t.Error("the book takes more after that")
	}
	if _, err := b.Append(t.Context(), opens(t, 0, 1)); !errors.Is(err, tidegate.ErrDiverged) {
		t.Errorf("got %v, want the first failure again", err)
	}
}

func TestReplayGivesTheState(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	b := s.Book(ledger.EUR)
	appendAll(t, b, opens(t, 0, 10))
	// A branch record lies between commands; the state steps over it.
	if _, err := b.Journal().Branch(t.Context(), 2, b.Position()); err != nil {
		t.Fatal(err)
	}
	if err := b.SkipTo(b.Journal().End()); err != nil {
		t.Fatal(err)
	}
	appendAll(t, b, opens(t, 10, 10))
	want := b.Digest()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir)
	if err := again.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := again.Book(ledger.EUR).Digest(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestDigestAt(t *testing.T) {
	b := open(t, t.TempDir()).Book(ledger.EUR)
	appendAll(t, b, opens(t, 0, 5))
	now := b.Digest()
	if got, err := b.DigestAt(t.Context(), now.Position); err != nil || got != now {
		t.Errorf("now: %+v, %v; want %+v", got, err, now)
	}
	if _, err := b.DigestAt(t.Context(), 0); !errors.Is(err, ErrPast) {
		t.Errorf("past: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.DigestAt(ctx, now.Position+1); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}

	// Two wait for what two more records will reach, and between them.
	size := now.Position / 5
	type answer struct {
		c   ledger.Checkpoint
		err error
	}
	ends, middles := make(chan answer, 1), make(chan answer, 1)
	var wg sync.WaitGroup
	wait := func(at tidegate.Position, to chan<- answer) {
		wg.Go(func() {
			c, err := b.DigestAt(t.Context(), at)
			to <- answer{c, err}
		})
	}
	wait(now.Position+size, ends)
	wait(now.Position+size-1, middles)
	appendAll(t, b, opens(t, 5, 2))
	wg.Wait()
	if a := <-middles; !errors.Is(a.err, ErrNotABoundary) && !errors.Is(a.err, ErrPast) {
		t.Errorf("inside a record: %+v", a)
	}
	switch a := <-ends; {
	case errors.Is(a.err, ErrPast): // it asked only after the records came
	case a.err != nil || a.c.Position != now.Position+size:
		t.Errorf("future: %+v", a)
	}
	if len(b.waiters) != 0 {
		t.Errorf("%d waiters are left", len(b.waiters))
	}
}

func TestCheckpointsAnswerForThePast(t *testing.T) {
	b := open(t, t.TempDir()).Book(ledger.EUR)
	appendAll(t, b, opens(t, 0, ledger.CheckpointRecords))
	at := b.Digest()
	appendAll(t, b, opens(t, ledger.CheckpointRecords, 3))
	if got, err := b.DigestAt(t.Context(), at.Position); err != nil || got != at {
		t.Errorf("got %+v, %v; want %+v", got, err, at)
	}
}

func TestHistoryIDs(t *testing.T) {
	a, b := HistoryID("x", ledger.EUR), HistoryID("x", ledger.USD)
	if a == b || a == HistoryID("y", ledger.EUR) || a != HistoryID("x", ledger.EUR) {
		t.Error("ids must depend on history and currency, and on nothing else")
	}
}

// BenchmarkReplayJournal is the rate of a cold start: records read from the
// journal's files, verified, and applied.
func BenchmarkReplayJournal(b *testing.B) {
	const accounts, records, batch = 1000, 200_000, 4096
	dir := b.TempDir()
	s := open(b, dir)
	bk := s.Book(ledger.EUR)
	recs := opens(b, 0, accounts)
	client := ledger.ClientID{2}
	request := ledger.Request(0)
	put := func(c ledger.Command) {
		request++
		c.Currency, c.Client, c.Request = ledger.EUR, client, request
		rec, err := c.Append(nil)
		if err != nil {
			b.Fatal(err)
		}
		if recs = append(recs, rec); len(recs) >= batch {
			appendAll(b, bk, recs)
			recs = recs[:0]
		}
	}
	name := func(i int) ledger.AccountID { return ledger.AccountID(fmt.Sprintf("a-%d", i%accounts)) }
	for i := range accounts {
		put(ledger.Command{Kind: ledger.KindDeposit, To: name(i), Amount: 1_000_000})
	}
	for i := range records {
		put(ledger.Command{Kind: ledger.KindTransfer, From: name(i * 7), To: name(i*7 + 13), Amount: 1})
	}
	appendAll(b, bk, recs)
	b.SetBytes(int64(bk.Journal().End()))
	var applied uint64
	for b.Loop() {
		cold := newBook(ledger.EUR, bk.dir, bk.journal)
		if err := cold.Replay(); err != nil {
			b.Fatal(err)
		}
		applied += cold.state.Records()
	}
	b.ReportMetric(float64(applied)/b.Elapsed().Seconds(), "records/s")
}

// A state that is held does not move with the book, and another book goes on from it;
// one that raft feeds does not take it.
func TestStateIsHeldAndRestored(t *testing.T) {
	b := open(t, t.TempDir()).Book(ledger.EUR)
	appendAll(t, b, opens(t, 0, 10))
	want := b.Digest()
	state, err := (&service{book: b}).Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	appendAll(t, b, opens(t, 10, 10))
	var raw bytes.Buffer
	if _, err := state.WriteTo(&raw); err != nil {
		t.Fatal(err)
	}
	other := open(t, t.TempDir()).Book(ledger.EUR)
	svc := &service{book: other}
	if err := svc.Restore(t.Context(), want.Position, bytes.NewReader(raw.Bytes()[1:])); err == nil {
		t.Error("a damaged state is taken")
	}
	if err := svc.Restore(t.Context(), want.Position, bytes.NewReader(raw.Bytes())); err != nil {
		t.Fatal(err)
	}
	if got := other.Digest(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	other.TakeOver()
	if err := svc.Restore(t.Context(), want.Position, bytes.NewReader(raw.Bytes())); !errors.Is(err, tidegate.ErrConflict) {
		t.Errorf("beside raft: %v", err)
	}
}

// TestReceipts: the newest are kept, those of records that are only repeated too.
func TestReceipts(t *testing.T) {
	b := open(t, t.TempDir()).Book(ledger.EUR)
	b.receiptsMax = 20
	recs := opens(t, 0, 70)
	appendAll(t, b, append(recs, recs[69]))
	got, kept := b.Receipts()
	if !kept || len(got) < 20 || len(got) >= 40 {
		t.Fatalf("%d receipts, %v", len(got), kept)
	}
	last, first := got[len(got)-1], got[len(got)-2]
	if last.Request != 70 || !last.Duplicate || last.First != first.At || last.At <= first.At || first.Code != ledger.Done {
		t.Errorf("%+v behind %+v", last, first)
	}
	b.receiptsMax, b.receipts = 0, nil
	appendAll(t, b, opens(t, 70, 1))
	if got, kept := b.Receipts(); kept || len(got) > 0 {
		t.Errorf("%d receipts that nobody wants", len(got))
	}
}

// TestPutOut: a book that is promoted puts out what it held back and has not handed, and
// what comes after, each under the epoch of then.
func TestPutOut(t *testing.T) {
	b := open(t, t.TempDir()).Book(ledger.EUR)
	appendAll(t, b, opens(t, 0, 30)) // as its follower would apply them
	if handed := b.Handed(); len(handed) != 30 || handed[29].Out || handed[29].Epoch != 0 {
		t.Fatalf("%d receipts", len(handed))
	}
	appendAll(t, b, opens(t, 30, 5))
	out := func() (all []Receipt) {
		all, _ = b.Receipts()
		return slices.DeleteFunc(all, func(r Receipt) bool { return !r.Out })
	}
	if got := out(); len(got) != 0 {
		t.Errorf("it follows, and has put out %d", len(got))
	}
	b.TakeOver()
	b.PutOut(7)
	if got := out(); len(got) != 5 || got[0].Request != 31 || got[0].Epoch != 7 || got[4].Epoch != 7 {
		t.Errorf("put out at the promotion: %+v", got)
	}
	appendAll(t, b, opens(t, 35, 2))
	if got := out(); len(got) != 7 || got[4].Epoch != 7 || got[6].Epoch != b.Journal().Status().Epoch {
		t.Errorf("put out since the promotion: %+v", got)
	}
}
