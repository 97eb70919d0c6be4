package agent

import (
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/rates"
	"github.com/tidegate/tidegate/internal/vfs"
)

// The operator's last resort works with every gate dead: a file stops what it
// names, and deleting it lets that go on.
func TestRateFilesStopAndLift(t *testing.T) {
	for _, name := range []string{rates.Ship, rates.Capture} {
		t.Run(name, func(t *testing.T) {
			w, n := active(t, func(*fakeGate) {})
			w.gate.stop()
			dir := n.agent.cfg.RatesDir
			limit := rates.Limit{Name: name, Unit: rates.BytesPerSecond}
			if err := rates.Set(vfs.OS(), dir, limit, 0); err != nil {
				t.Fatal(err)
			}
			lim := n.agent.rates.Limiter(name)
			began := time.Now()
			w.log.wait(t, "stopped", func(*dr) bool { r, limited := lim.Rate(); return limited && r == 0 || poke(w) })
			if took := time.Since(began); took > time.Second {
				t.Errorf("obeyed after %s", took)
			}
			end := n.append(1)
			n.held(end)
			for _, one := range n.agent.Status().Rates.Rates {
				if one.Name == name && one.Text() != "0 bytes/s (stopped)" {
					t.Errorf("status %+v", one)
				}
			}
			if err := rates.Lift(vfs.OS(), dir, limit); err != nil {
				t.Fatal(err)
			}
			began = time.Now()
			n.await(end)
			if took := time.Since(began); took > 1500*time.Millisecond {
				t.Errorf("lifted after %s", took)
			}
			n.shipped(end)
		})
	}
}

// poke makes a wait on the standby nodes look again soon.
func poke(w *world) bool {
	time.AfterFunc(10*time.Millisecond, func() {
		w.log.mu.Lock()
		defer w.log.mu.Unlock()
		w.log.shout()
	})
	return false
}

// A slow capture rate is kept on average, and nothing is lost or reordered.
func TestCaptureRate(t *testing.T) {
	w, n := active(t, func(*fakeGate) {})
	if err := rates.Set(vfs.OS(), n.agent.cfg.RatesDir, rates.Limit{Name: rates.Capture}, 64<<10); err != nil {
		t.Fatal(err)
	}
	w.log.wait(t, "limited", func(*dr) bool { _, limited := n.agent.rates.Limiter(rates.Capture).Rate(); return limited || poke(w) })
	from := n.j.End()
	began := time.Now()
	var end tidegate.Position
	for n.j.End()-from < 96<<10 {
		end = n.append(100)
	}
	n.await(end)
	if took, least := time.Since(began), time.Duration(end-from-16<<10)*time.Second/(64<<10)-200*time.Millisecond; took < least {
		t.Errorf("%d bytes in %s, want %s at least", end-from, took, least)
	}
	n.shipped(end)
}

// The operator's cap on new work reaches the library.
func TestAdmissionRate(t *testing.T) {
	_, n := active(t, func(*fakeGate) {})
	if err := rates.Set(vfs.OS(), n.agent.cfg.RatesDir, rates.Limit{Name: rates.Admit}, 7); err != nil {
		t.Fatal(err)
	}
	st := n.writer("told", func(s *WriterStatus) bool { return s.Gate.Admission != nil })
	if *st.Gate.Admission != 7 {
		t.Errorf("admission %d", *st.Gate.Admission)
	}
}

func TestPauses(t *testing.T) {
	if got := lagBetween(0, tidegate.Instant(pauseEvery)); got != 0 {
		t.Errorf("lag %s of a look that came in time", got)
	}
	var p pauses
	p.note(2*time.Second, time.Unix(1, 0))
	p.note(time.Second, time.Unix(2, 0))
	if got := p.get(); got.Count != 2 || got.Total != 3*time.Second || got.Longest != 2*time.Second || !got.Last.Equal(time.Unix(2, 0)) {
		t.Errorf("pauses %+v", got)
	}
}
