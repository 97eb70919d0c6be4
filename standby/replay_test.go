package standby

import (
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
)

// count appends a batch that ends at a hundred times its seq.
func count(r *replay, seq tidegate.Seq, records uint32) {
	r.appended(&batch.Header{Seq: seq, Records: records, Next: 100 * tidegate.Position(seq)})
}

func wantLag(t *testing.T, r *replay, applied tidegate.Seq, want int64) {
	t.Helper()
	if lag, known := r.lag(applied); !known || lag != want {
		t.Errorf("lag behind batch %s: %d, known %v, want %d", applied, lag, known, want)
	}
}

func TestReplayLag(t *testing.T) {
	r := startReplay(10)
	wantLag(t, &r, 10, 0)
	if _, known := r.lag(9); known {
		t.Error("what was in the log before is not counted, and must not be claimed to be")
	}
	for seq := tidegate.Seq(11); seq <= 20; seq++ {
		count(&r, seq, 3)
	}
	count(&r, 21, 0) // a heartbeat
	wantLag(t, &r, 10, 30)
	wantLag(t, &r, 15, 15)
	wantLag(t, &r, 20, 0)
	r.applied(1, 18)
	wantLag(t, &r, 18, 6)
	if len(r.marks) > 4 {
		t.Errorf("%d marks are kept of what was applied", len(r.marks))
	}
	r.cut(19)
	wantLag(t, &r, 19, 0)
	if _, known := r.lag(18); known {
		t.Error("a lag is claimed behind a cut")
	}
	count(&r, 20, 5)
	wantLag(t, &r, 19, 5)
}

func TestReplayLagStaysBounded(t *testing.T) {
	r := startReplay(0)
	const batches = 100_000
	for seq := tidegate.Seq(1); seq <= batches; seq++ {
		count(&r, seq, 2)
	}
	if len(r.marks) > marksMax {
		t.Fatalf("%d marks, want at most %d", len(r.marks), marksMax)
	}
	for _, applied := range []tidegate.Seq{0, 1, 777, 50_000, 99_999, batches} {
		exact := 2 * int64(batches-applied)
		lag, known := r.lag(applied)
		if most := exact + 2*int64(r.every); !known || lag < exact || lag > most {
			t.Errorf("lag behind %s: %d, known %v, want %d to %d", applied, lag, known, exact, most)
		}
	}
	r.applied(1, batches)
	count(&r, batches+1, 7)
	wantLag(t, &r, batches, 7)
}

func TestReplayRate(t *testing.T) {
	at := func(d time.Duration) tidegate.Instant { return tidegate.Instant(time.Hour + d) }
	r := startReplay(0)
	r.applied(at(0), 0)
	r.applied(at(time.Hour), 0)
	if rate, known := r.rate(); known || rate != 0 {
		t.Fatalf("a rate of %g was measured while there was nothing to apply", rate)
	}
	for seq := tidegate.Seq(1); seq <= 100; seq++ {
		count(&r, seq, 10)
	}
	begin := 2 * time.Hour
	r.applied(at(begin), 0)                         // the hour of idleness before does not count
	r.applied(at(begin+100*time.Millisecond), 5)    // too short to be believed
	r.applied(at(begin+time.Second), 50)            // 500 records in a second
	r.applied(at(begin+1500*time.Millisecond), 100) // 500 in half a second
	if rate, known := r.rate(); !known || rate != 1000 {
		t.Fatalf("rate %g, known %v, want 1000/s: the best stretch", rate, known)
	}
	r.applied(at(3*time.Hour), 100)
	count(&r, 101, 10)
	r.applied(at(4*time.Hour), 101)
	if rate, _ := r.rate(); rate != 1000 {
		t.Fatalf("rate %g after idling, want it to stay", rate)
	}
	count(&r, 102, 10)
	r.applied(at(5*time.Hour), 101)
	r.paused() // the library went away
	r.applied(at(6*time.Hour), 102)
	if r.rated != 2 {
		t.Fatalf("%d stretches were timed, want 2: nobody applied while the library was gone", r.rated)
	}
}
