package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errAway = &tidegate.Error{Op: "ask", Class: tidegate.Transient, Err: errors.New("away")}

// desk is a gate with one drill, which is due once.
type desk struct {
	mu      sync.Mutex
	given   bool
	away    bool
	abort   string
	steps   []string
	reports int
	ends    []End
	ended   []time.Time
	lost    bool
	lastly  bool // nobody answers once the drill has ended
}

func (d *desk) Take(context.Context) (*Claim, string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.away {
		return nil, "", errAway
	}
	if d.given {
		return nil, "none is due", nil
	}
	d.given = true
	return &Claim{ID: "c", Level: "L1", Silence: 30 * time.Second}, "", nil
}

func (d *desk) Report(_ context.Context, claim, step string) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.away || claim != "c" {
		return "", errAway
	}
	d.reports++
	d.steps = append(d.steps, step)
	return d.abort, nil
}

func (d *desk) End(_ context.Context, _ string, e End) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.away || d.lastly {
		return false, errAway
	}
	d.ends, d.ended = append(d.ends, e), append(d.ended, time.Now())
	return !d.lost, nil
}

func (d *desk) set(edit func(*desk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	edit(d)
}

// heard is how often the gate has heard of the drill, and of its end.
func (d *desk) heard() (reports, ends int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reports, len(d.ends)
}

// bubble is the clock of a test's bubble.
type bubble struct{ start time.Time }

func (b bubble) Boot() tidegate.Instant { return tidegate.Instant(time.Since(b.start)) }
func (b bubble) Wall() time.Time        { return time.Now() }

// play is a drill that takes its time.
type play struct {
	gate     *desk
	takes    time.Duration
	recorded int
	why      string // it was called off
}

func (p *play) Run(ctx context.Context) End {
	select {
	case <-time.After(p.takes):
		return End{Outcome: "passed", Report: "r"}
	case <-ctx.Done():
		p.why = context.Cause(ctx).Error()
		return End{Outcome: "interrupted", Why: p.why, Report: "r"}
	}
}

func (p *play) Progress() string { return "apply" }

func (p *play) Record(context.Context) error {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	if p.gate.away || p.gate.lastly {
		return errAway
	}
	p.recorded++
	return nil
}

// work runs a worker in the bubble until stop.
func work(t *testing.T, d *desk, p *play, begin error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p.gate = d
	job := Job{
		Service: "bank", Gates: d, Clean: func() ([]string, error) { return []string{"sandbox x"}, nil },
		Begin: func(Claim) (Drill, error) { return p, begin },
	}
	done := make(chan error, 1)
	w := New(bubble{time.Now()}, slog.New(slog.DiscardHandler), []Job{job}, Config{Every: 5 * time.Second, Last: 8 * time.Second})
	go func() { done <- w.Run(ctx) }() // owned by stop
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// then is what happens to a gate after a while.
type then struct {
	after time.Duration
	do    func(*desk)
}

func TestWorker(t *testing.T) {
	gone, back := func(d *desk) { d.away = true }, func(d *desk) { d.away = false }
	for name, c := range map[string]struct {
		desk   *desk // nil: one that answers
		begin  error
		thens  []then
		want   string // outcome and reason
		record int
	}{
		"to its end":                {want: "passed ", record: 1},
		"refused":                   {begin: errors.New("no room"), want: "refused no room"},
		"called off":                {thens: []then{{10 * time.Second, func(d *desk) { d.abort = "month end" }}}, want: "interrupted month end", record: 1},
		"gates away for a while":    {thens: []then{{0, gone}, {50 * time.Second, back}}, want: "passed ", record: 1},
		"gates away when it ends":   {thens: []then{{55 * time.Second, gone}, {30 * time.Second, back}}, want: "passed ", record: 1},
		"gates away when it is due": {desk: &desk{away: true}, thens: []then{{50 * time.Second, back}}, want: "passed ", record: 1},
		"another worker has it": {
			desk: &desk{lost: true}, thens: []then{{10 * time.Second, func(d *desk) { d.abort = "it is not yours any more" }}},
			want: "interrupted it is not yours any more", record: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, p := c.desk, &play{takes: time.Minute}
				if d == nil {
					d = &desk{}
				}
				stop := work(t, d, p, c.begin)
				synctest.Wait()
				for _, n := range c.thens {
					time.Sleep(n.after)
					d.set(n.do)
				}
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				stop()
				if len(d.ends) != 1 || d.ends[0].Outcome+" "+d.ends[0].Why != c.want || p.recorded != c.record {
					t.Errorf("ended %+v, recorded %d times; want %q", d.ends, p.recorded, c.want)
				}
			})
		})
	}
}

// TestReports: a drill is reported often enough, until its end is known, and no longer.
func TestReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, p := &desk{lastly: true}, &play{takes: time.Minute}
		stop := work(t, d, p, nil)
		time.Sleep(61 * time.Second)
		synctest.Wait()
		before, _ := d.heard()
		if before < 12 {
			t.Errorf("%d reports in a minute", before)
		}
		time.Sleep(20 * time.Second) // it is over, and no gate hears it
		d.set(func(d *desk) { d.lastly = false })
		time.Sleep(10 * time.Second)
		synctest.Wait()
		after, ends := d.heard()
		if after < before+3 || ends != 1 {
			t.Errorf("%d reports while its end was not known, %d ends", after-before, ends)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		stop()
		if d.reports != after || strings.Join(d.steps, "") != strings.Repeat("apply", after) {
			t.Errorf("%d reports of a drill that has ended, of %v", d.reports-after, d.steps)
		}
	})
}

// TestAlone: a drill that no gate hears of is called off before another worker may have it.
func TestAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, p := &desk{}, &play{takes: time.Hour}
		stop := work(t, d, p, nil)
		time.Sleep(time.Minute)
		d.set(func(d *desk) { d.away = true })
		time.Sleep(7 * time.Minute)
		d.set(func(d *desk) { d.away = false })
		time.Sleep(time.Minute)
		synctest.Wait()
		stop()
		if len(d.ends) > 0 || p.recorded > 0 || p.why == "" || !strings.Contains(p.why, "no gate has heard of it for 5m") {
			t.Errorf("ended %+v: %q", d.ends, p.why)
		}
	})
}

// TestStop: a worker that is to stop tears its drill down, and says so within its time
// also when no gate answers.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, p := &desk{}, &play{takes: time.Hour}
		stop := work(t, d, p, nil)
		time.Sleep(time.Minute)
		stop()
		if len(d.ends) != 1 || d.ends[0].Outcome != "interrupted" || p.recorded != 1 {
			t.Errorf("ended %+v", d.ends)
		}
		d, p = &desk{lastly: true}, &play{takes: time.Hour}
		stop = work(t, d, p, nil)
		time.Sleep(time.Minute)
		began := time.Now()
		if stop(); time.Since(began) > 10*time.Second {
			t.Errorf("stopped after %s", time.Since(began))
		}
	})
}

// TestLeftOvers: a worker takes no drill of a service beside what it cannot clean, and tries
// again, while it rehearses the others.
func TestLeftOvers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var jobs []Job
		held, other := &desk{}, &desk{}
		tries := 0
		for service, d := range map[tidegate.ServiceName]*desk{"held": held, "other": other} {
			jobs = append(jobs, Job{
				Service: service, Gates: d, Begin: func(Claim) (Drill, error) { return &play{gate: d, takes: time.Second}, nil },
				Clean: func() ([]string, error) {
					if service == "other" {
						return nil, nil
					}
					if tries++; tries < 10 {
						return nil, errors.New("another drill runs there")
					}
					return []string{"sandbox x"}, nil
				},
			})
		}
		done := make(chan error, 1)
		w := New(bubble{time.Now()}, slog.New(slog.DiscardHandler), jobs, Config{Every: 5 * time.Second, Last: 8 * time.Second})
		go func() { done <- w.Run(ctx) }() // owned by this test
		ends := func() string {
			synctest.Wait()
			_, a := held.heard()
			_, b := other.heard()
			return fmt.Sprintf("%d and %d", a, b)
		}
		time.Sleep(20 * time.Second)
		if got := ends(); got != "0 and 1" {
			t.Errorf("while something is left: ended %s", got)
		}
		time.Sleep(time.Minute)
		if got := ends(); got != "1 and 1" || tries != 10 {
			t.Errorf("once it was cleaned: ended %s, after %d tries", got, tries)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
