package node

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tidegate/tidegate/examples/ledger/api"
	"github.com/tidegate/tidegate/examples/ledger/book"
	"github.com/tidegate/tidegate/examples/ledger/cluster"
	"github.com/tidegate/tidegate/examples/ledger/daemontest"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/journal"
)

// TestClusterOfOneGoesOnFromJournals: of what was restored out of an archive raft has
// nothing. One journal has all of its log, the other begins at a state.
func TestClusterOfOneGoesOnFromJournals(t *testing.T) {
	self := cluster.Peer{Node: "n1", Raft: daemontest.Address(t), HTTP: "http://" + daemontest.Address(t)}
	n := newRunning(t, "n1", Config{HTTP: self.HTTP[len("http://"):], Peers: []cluster.Peer{self}})
	n.start()
	leader(t, []*running{n})
	load(t, n, 60)
	eur := n.node.shelf.Book(ledger.EUR)
	state := eur.Snapshot()
	held := eur.Digest()
	from := journal.Beginning{Position: held.Position, Records: eur.Journal().Records(), Digest: held.Digest, Lineage: eur.Journal().Lineage(), Bytes: int64(len(state))}
	load(t, n, 40)
	want := map[ledger.Currency]api.Digest{}
	for _, c := range ledger.Currencies() {
		want[c] = n.digest(c)
	}
	raw := n.journal(ledger.EUR, want[ledger.EUR].Position)
	n.stop()

	for _, name := range []string{"raft", "journal/eur"} {
		if err := os.RemoveAll(filepath.Join(n.cfg.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	j, err := journal.Open(filepath.Join(n.cfg.Dir, "journal/eur"), journal.Config{Service: "ledger", Stream: "eur", ID: book.HistoryID("ledger", ledger.EUR)})
	if err != nil {
		t.Fatal(err)
	}
	w, err := j.CreateState(from)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(state); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.BeginAt(t.Context(), from.Position); err != nil {
		t.Fatal(err)
	}
	if _, err := j.AppendRaw(t.Context(), from.Position, raw[from.Position:]); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}

	for range 2 { // and it stays what it has become
		n.start()
		leader(t, []*running{n})
		for _, c := range ledger.Currencies() {
			if got := n.digest(c); got != want[c] {
				t.Errorf("%s: %+v, want %+v", c, got, want[c])
			}
		}
		load(t, n, 20)
		for _, c := range ledger.Currencies() {
			want[c] = n.digest(c)
		}
		n.stop()
	}
}
