package ledger

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tidegate/tidegate"
)

var update = flag.Bool("update", false, "rewrite the golden files of the newest version")

// tape feeds commands to a state back to back, as a journal without framing.
type tape struct {
	t testing.TB
	s *State
}

func (tp tape) apply(c Command) Outcome {
	tp.t.Helper()
	if c.Currency == 0 {
		c.Currency = EUR
	}
	rec, err := c.Append(nil)
	if err != nil {
		tp.t.Fatal(err)
	}
	at := tp.s.Position()
	o, err := tp.s.Apply(at, at+tidegate.Position(len(rec)), rec)
	if err != nil {
		tp.t.Fatal(err)
	}
	if err := tp.s.Audit(); err != nil {
		tp.t.Fatal(err)
	}
	return o
}

func client1(n byte) ClientID { return ClientID{15: n} }

func TestOutcomes(t *testing.T) {
	tp := tape{t, New(EUR)}
	steps := []struct {
		name    string
		cmd     Command
		code    Code
		balance int64
		dup     bool
	}{
		{"open a", Command{Kind: KindOpen, Client: client1(1), Request: 1, To: "a"}, Done, 0, false},
		{"open b", Command{Kind: KindOpen, Client: client1(1), Request: 2, To: "b"}, Done, 0, false},
		{"open a again", Command{Kind: KindOpen, Client: client1(1), Request: 3, To: "a"}, AccountExists, 0, false},
		{"deposit", Command{Kind: KindDeposit, Client: client1(1), Request: 4, To: "a", Amount: 100}, Done, 100, false},
		{"deposit repeated", Command{Kind: KindDeposit, Client: client1(1), Request: 4, To: "a", Amount: 100}, Done, 100, true},
		{"number reused", Command{Kind: KindDeposit, Client: client1(1), Request: 4, To: "a", Amount: 101}, RequestReused, 0, false},
		{"transfer", Command{Kind: KindTransfer, Client: client1(2), Request: 1, From: "a", To: "b", Amount: 60}, Done, 40, false},
		{"overdraft", Command{Kind: KindTransfer, Client: client1(2), Request: 2, From: "a", To: "b", Amount: 41}, Overdraft, 0, false},
		{"overdraft repeated", Command{Kind: KindTransfer, Client: client1(2), Request: 2, From: "a", To: "b", Amount: 41}, Overdraft, 0, true},
		{"to itself", Command{Kind: KindTransfer, Client: client1(2), Request: 3, From: "a", To: "a", Amount: 1}, SameAccount, 0, false},
		{"from nobody", Command{Kind: KindTransfer, Client: client1(2), Request: 4, From: "x", To: "a", Amount: 1}, UnknownAccount, 0, false},
		{"to nobody", Command{Kind: KindTransfer, Client: client1(2), Request: 5, From: "a", To: "x", Amount: 1}, UnknownAccount, 0, false},
		{"too much money", Command{Kind: KindDeposit, Client: client1(1), Request: 5, To: "a", Amount: AmountMax}, MintExhausted, 0, false},
		{"far ahead", Command{Kind: KindTransfer, Client: client1(2), Request: 1000, From: "b", To: "a", Amount: 1}, Done, 59, false},
		{"left the window", Command{Kind: KindTransfer, Client: client1(2), Request: 1, From: "a", To: "b", Amount: 60}, RequestTooOld, 0, false},
		{"late, in the window", Command{Kind: KindTransfer, Client: client1(2), Request: 1000 - Window + 1, From: "b", To: "a", Amount: 1}, Done, 58, false},
		{"window's last forgotten", Command{Kind: KindTransfer, Client: client1(2), Request: 1000 - Window, From: "b", To: "a", Amount: 1}, RequestTooOld, 0, false},
		{"highest number", Command{Kind: KindTransfer, Client: client1(2), Request: 1<<64 - 1, From: "b", To: "a", Amount: 1}, Done, 57, false},
		{"just below it", Command{Kind: KindTransfer, Client: client1(2), Request: 1<<64 - 2, From: "b", To: "a", Amount: 1}, Done, 56, false},
	}
	first := map[string]Outcome{}
	for _, st := range steps {
		o := tp.apply(st.cmd)
		key := fmt.Sprint(st.cmd.Client, st.cmd.Request)
		if st.dup {
			want := first[key]
			want.Duplicate = true
			if o != want {
				t.Errorf("%s: got %+v, want the first answer %+v", st.name, o, want)
			}
			continue
		}
		if o.Code != st.code || o.Balance != st.balance || o.Duplicate || o.Next != tp.s.Position() {
			t.Errorf("%s: got %+v, want %s with %d", st.name, o, st.code, st.balance)
		}
		if st.code != RequestReused && st.code != RequestTooOld {
			first[key] = o
		}
	}
	if _, found, forgotten := tp.s.Lookup(client1(2), 1); found || !forgotten {
		t.Error("a request below the window must be forgotten, not unknown")
	}
	if o, found, _ := tp.s.Lookup(client1(2), 1<<64-1); !found || o.Balance != 57 {
		t.Errorf("lookup of the newest request: %+v, %v", o, found)
	}
	if _, found, forgotten := tp.s.Lookup(client1(9), 1); found || forgotten {
		t.Error("an unknown client's request is neither found nor forgotten")
	}
}

// randomCommands mixes everything that can happen, repeats included.
func randomCommands(seed uint64, n int) [][]byte {
	r := rand.New(rand.NewPCG(seed, 1))
	var out [][]byte
	next := map[byte]Request{}
	name := func() AccountID { return AccountID(fmt.Sprintf("acct-%d", r.IntN(40))) }
	for len(out) < n {
		if len(out) > 0 && r.IntN(8) == 0 {
			out = append(out, out[len(out)-1-r.IntN(min(len(out), 300))])
			continue
		}
		cl := byte(1 + r.IntN(5))
		next[cl] += Request(1 + r.IntN(3)/2)
		c := Command{Currency: EUR, TimeUnix: int64(len(out)), Client: client1(cl), Request: next[cl], To: name()}
		switch r.IntN(10) {
		case 0, 1:
			c.Kind = KindOpen
		case 2, 3:
			c.Kind, c.Amount = KindDeposit, Amount(1+r.IntN(1000))
		default:
			c.Kind, c.Amount, c.From = KindTransfer, Amount(1+r.IntN(500)), name()
		}
		b, err := c.Append(nil)
		if err != nil {
			panic(err)
		}
		out = append(out, b)
	}
	return out
}

func replay(tb testing.TB, s *State, recs [][]byte) []Outcome {
	tb.Helper()
	out := make([]Outcome, 0, len(recs))
	for _, rec := range recs {
		o, err := s.Apply(s.Position(), s.Position()+tidegate.Position(len(rec)), rec)
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, o)
	}
	return out
}

func TestSameLogSameState(t *testing.T) {
	recs := randomCommands(7, 3*CheckpointRecords)
	a, b := New(EUR), New(EUR)
	oa := replay(t, a, recs)
	// b is asked for its digest at other times and restored from snapshots along the way.
	var ob []Outcome
	for i := 0; i < len(recs); i += 1000 {
		ob = append(ob, replay(t, b, recs[i:min(i+1000, len(recs))])...)
		var err error
		if b, err = ParseSnapshot(b.AppendSnapshot(nil)); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(oa, ob); diff != "" {
		t.Errorf("outcomes differ (-once +restored):\n%s", diff)
	}
	if a.Digest() != b.Digest() {
		t.Errorf("digest %s once, %s restored", a.Digest(), b.Digest())
	}
	if !bytes.Equal(a.AppendSnapshot(nil), b.AppendSnapshot(nil)) {
		t.Error("snapshots of equal states differ")
	}
	if got := len(a.Checkpoints()); got != 3 {
		t.Errorf("%d checkpoints after %d records, want 3", got, len(recs))
	}
	if c, ok := a.CheckpointAt(a.Position()); !ok || c.Digest != a.Digest() {
		t.Errorf("checkpoint at the end: %+v, %v; digest is %s", c, ok, a.Digest())
	}
}

func TestDigestTellsStatesApart(t *testing.T) {
	seen := map[tidegate.Digest]int{}
	s := New(EUR)
	for i, rec := range randomCommands(3, 2000) {
		replay(t, s, [][]byte{rec})
		if at, dup := seen[s.Digest()]; dup {
			t.Fatalf("record %d leaves the digest of record %d", i, at)
		}
		seen[s.Digest()] = i
	}
}

func TestCheckpointRing(t *testing.T) {
	s := New(EUR)
	for range checkpointsMax + 10 {
		s.position++
		s.checkpoint()
	}
	all := s.Checkpoints()
	if len(all) != checkpointsMax || all[0].Position != 11 || all[len(all)-1].Position != checkpointsMax+10 {
		t.Errorf("%d checkpoints from %s to %s", len(all), all[0].Position, all[len(all)-1].Position)
	}
}

// TestAgainstSimpleModel compares with an implementation that remembers
// everything, on histories that stay inside the window.
func TestAgainstSimpleModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tp := tape{t, New(EUR)}
		balances := map[AccountID]int64{}
		asked := map[string]Command{}
		answered := map[string]Outcome{}
		for range rapid.IntRange(1, 200).Draw(rt, "commands") {
			name := rapid.SampledFrom([]AccountID{"a", "b", "c", "d"})
			c := Command{
				Kind:    Kind(rapid.IntRange(1, 3).Draw(rt, "kind")),
				Client:  client1(byte(rapid.IntRange(1, 3).Draw(rt, "client"))),
				Request: Request(rapid.IntRange(1, 60).Draw(rt, "request")),
				To:      name.Draw(rt, "to"),
			}
			if c.Kind != KindOpen {
				c.Amount = Amount(rapid.IntRange(1, 50).Draw(rt, "amount"))
			}
			if c.Kind == KindTransfer {
				c.From = name.Draw(rt, "from")
			}
			key := fmt.Sprint(c.Client, c.Request)
			got := tp.apply(c)
			if old, ok := asked[key]; ok {
				want := Outcome{Code: RequestReused, First: got.First, Next: got.Next}
				if old == c {
					want = answered[key]
					want.Duplicate = true
				}
				if got != want {
					rt.Fatalf("repeat of %+v: got %+v, want %+v", c, got, want)
				}
				continue
			}
			asked[key], answered[key] = c, got
			want := Done
			_, toKnown := balances[c.To]
			from, fromKnown := balances[c.From]
			switch {
			case c.Kind == KindOpen && toKnown:
				want = AccountExists
			case c.Kind == KindOpen:
				balances[c.To] = 0
			case !toKnown, c.Kind == KindTransfer && !fromKnown:
				want = UnknownAccount
			case c.Kind == KindDeposit:
				balances[c.To] += int64(c.Amount)
			case c.From == c.To:
				want = SameAccount
			case from < int64(c.Amount):
				want = Overdraft
			default:
				balances[c.From] -= int64(c.Amount)
				balances[c.To] += int64(c.Amount)
			}
			if got.Code != want {
				rt.Fatalf("%+v: got %s, want %s", c, got.Code, want)
			}
			for id, b := range balances {
				if have, ok := tp.s.Balance(id); !ok || have != b {
					rt.Fatalf("after %+v: %s has %d (%v), want %d", c, id, have, ok, b)
				}
			}
		}
	})
}

func TestApplyRefusesForeignBytes(t *testing.T) {
	good := Command{Kind: KindOpen, Currency: EUR, Client: client1(1), Request: 1, To: "a"}
	rec, err := good.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	usd := bytes.Clone(rec)
	usd[2] = byte(USD)
	newer := bytes.Clone(rec)
	newer[0] = 2
	kind := bytes.Clone(rec)
	kind[1] = 9
	nameless := bytes.Clone(rec[:commandHeaderLen])
	nameless[5] = 0
	end := tidegate.Position(len(rec))
	for name, tc := range map[string]struct {
		first, next tidegate.Position
		rec         []byte
		want        error
	}{
		"gap":            {1, 1 + end, rec, tidegate.ErrGap},
		"empty range":    {0, 0, rec, tidegate.ErrGap},
		"other currency": {0, end, usd, nil},
		"newer version":  {0, end, newer, tidegate.ErrUnsupported},
		"unknown kind":   {0, end, kind, tidegate.ErrUnsupported},
		"no name":        {0, end, nameless, nil},
		"cut":            {0, end, rec[:20], nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(EUR)
			before := s.Digest()
			_, err := s.Apply(tc.first, tc.next, tc.rec)
			if tidegate.ClassOf(err) != tidegate.Corrupt {
				t.Fatalf("got %v, want a corrupt error", err)
			}
			if tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("got %v, want it to wrap %v", err, tc.want)
			}
			if s.Digest() != before {
				t.Error("a refused record changed the state")
			}
		})
	}
}

func TestLimitsAreOutcomes(t *testing.T) {
	s := New(EUR)
	var id ClientID
	for i := range ClientsMax + 1 {
		binary.BigEndian.PutUint32(id[:], uint32(i+1))
		c := Command{Kind: KindDeposit, Currency: EUR, Client: id, Request: 1, To: "nobody", Amount: 1}
		rec, err := c.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		want := UnknownAccount
		if i == ClientsMax {
			want = ClientLimit
		}
		o, err := s.Apply(s.Position(), s.Position()+1, rec)
		if err != nil || o.Code != want {
			t.Fatalf("client %d: %s, %v; want %s", i, o.Code, err, want)
		}
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", "v1", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: bytes changed; a change of format needs a new version", name)
	}
}

func TestGolden(t *testing.T) {
	c := Command{
		Kind: KindTransfer, Currency: USD, TimeUnix: 1_700_000_000_000_000_000, Client: ClientID{0: 1, 15: 2},
		Request: 77, Amount: 12345, From: "alice", To: "bob-2",
	}
	rec, err := c.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "transfer.bin", rec)
	back, err := DecodeCommand(rec)
	if err != nil || back != c {
		t.Errorf("decode: %+v, %v", back, err)
	}
	s := New(EUR)
	replay(t, s, randomCommands(1, 500))
	golden(t, "snapshot.bin", s.AppendSnapshot(nil))
	kept, err := os.ReadFile(filepath.Join("testdata", "v1", "snapshot.bin"))
	if err != nil {
		t.Fatal(err)
	}
	if restored, err := ParseSnapshot(kept); err != nil || restored.Digest() != s.Digest() {
		t.Errorf("the kept snapshot of version 1: %v", err)
	}
	golden(t, "digest.txt", []byte(s.Digest().String()+"\n"))
}

func FuzzDecodeCommand(f *testing.F) {
	for _, rec := range randomCommands(5, 30) {
		f.Add(rec)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeCommand(b)
		s := New(EUR)
		if _, applyErr := s.Apply(0, 1, b); err == nil && c.Currency == EUR && applyErr != nil {
			t.Fatalf("decodes but does not apply: %v", applyErr)
		}
		if err != nil {
			return
		}
		again, err := c.Append(nil)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("decode then encode: %x, %v; want %x", again, err, b)
		}
	})
}

func FuzzParseSnapshot(f *testing.F) {
	s := New(EUR)
	replay(f, s, randomCommands(1, 60))
	f.Add(s.AppendSnapshot(nil))
	f.Add(New(USD).AppendSnapshot(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSnapshot(b)
		if err == nil && !bytes.Equal(s.AppendSnapshot(nil), b) {
			t.Fatal("parse then encode gives other bytes")
		}
		// Behind the checksum lies the part that random bytes never reach.
		if len(b) > snapshotHeaderLen+4 {
			_, _ = New(EUR).parseAccounts(b[snapshotHeaderLen:len(b)-4], 1<<31)
			_, _ = New(EUR).parseClients(b[snapshotHeaderLen:len(b)-4], 1<<31)
		}
	})
}

func TestSnapshotTruncationIsCorrupt(t *testing.T) {
	s := New(EUR)
	replay(t, s, randomCommands(1, 60))
	whole := s.AppendSnapshot(nil)
	for n := range whole {
		if _, err := ParseSnapshot(whole[:n]); tidegate.ClassOf(err) != tidegate.Corrupt {
			t.Fatalf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
}

// BenchmarkReplay is the rate of the warm state machine: transfers among 100,000
// accounts, checkpoints included.
func BenchmarkReplay(b *testing.B) {
	const accounts, records = 100_000, 200_000
	base := New(EUR)
	name := func(i int) AccountID { return AccountID(fmt.Sprintf("acct-%06d", i)) }
	for i := range accounts {
		for k, kind := range []Kind{KindOpen, KindDeposit} {
			c := Command{Kind: kind, Currency: EUR, Client: client1(9), Request: Request(2*i + k + 1), To: name(i), Amount: Amount(k) * 1_000_000}
			rec, err := c.Append(nil)
			if err != nil {
				b.Fatal(err)
			}
			replay(b, base, [][]byte{rec})
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	var recs [][]byte
	var bytesPerRun int64
	for i := range records {
		c := Command{
			Kind: KindTransfer, Currency: EUR, TimeUnix: int64(i), Client: client1(byte(1 + i%8)), Request: Request(i/8 + 1),
			Amount: Amount(1 + r.IntN(3)), From: name(r.IntN(accounts)), To: name(r.IntN(accounts)),
		}
		rec, err := c.Append(nil)
		if err != nil {
			b.Fatal(err)
		}
		recs = append(recs, rec)
		bytesPerRun += int64(len(rec))
	}
	snapshot := base.AppendSnapshot(nil)
	b.SetBytes(bytesPerRun)
	b.ReportAllocs()
	var applied int
	for b.Loop() {
		b.StopTimer()
		s, err := ParseSnapshot(snapshot)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		for _, rec := range recs {
			if _, err := s.Apply(s.Position(), s.Position()+tidegate.Position(len(rec)), rec); err != nil {
				b.Fatal(err)
			}
		}
		applied += records
	}
	b.ReportMetric(float64(applied)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkDigest is one call a second's worth of work: 100,000 accounts, of
// which 2,000 changed since the last call.
func BenchmarkDigest(b *testing.B) {
	s := New(EUR)
	all := make([]*account, 100_000)
	for i := range all {
		all[i] = &account{id: AccountID(fmt.Sprintf("acct-%06d", i)), balance: int64(i)}
		s.accounts[string(all[i].id)] = all[i]
		s.touchAccount(all[i])
	}
	s.Digest()
	for b.Loop() {
		for i := range 2000 {
			s.touchAccount(all[i*50])
		}
		s.Digest()
	}
}
