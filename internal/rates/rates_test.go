package rates

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a directory of files, and a daemon that obeys ship and admit in it.
type bench struct {
	t     *testing.T
	dir   string
	log   *lines
	rates *Rates
	ship  *Limiter
}

// lines keeps what was logged.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// take returns what was logged since the last call, without the time.
func (l *lines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.b.Reset()
	return l.b.String()
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, dir: t.TempDir(), log: &lines{}}
	b.open()
	return b
}

// open makes the daemon's limits; its channels belong to the caller's bubble.
func (b *bench) open() {
	h := slog.NewTextHandler(b.log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		if a.Key == "file" {
			a.Value = slog.StringValue(filepath.Base(a.Value.String()))
		}
		return a
	}})
	b.rates = New(b.dir, clock.NewFake(time.Unix(1000, 0)), slog.New(h), []Limit{
		{Name: Ship, Unit: BytesPerSecond}, {Name: Admit, Unit: RecordsPerSecond},
	})
	b.ship = b.rates.Limiter(Ship)
}

func (b *bench) write(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) remove(name string) {
	b.t.Helper()
	if err := os.Remove(filepath.Join(b.dir, name)); err != nil {
		b.t.Fatal(err)
	}
}

// in runs f in a bubble beside a daemon's Run.
func (b *bench) in(f func(ctx context.Context)) {
	synctest.Test(b.t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		b.open()
		b.rates.Read()
		wg.Go(func() {
			if err := b.rates.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		f(ctx)
	})
}

func (b *bench) wantLog(want ...string) {
	b.t.Helper()
	got := b.log.take()
	if joined := strings.Join(append(want, ""), "\n"); got != joined {
		b.t.Errorf("log\n%swant\n%s", got, joined)
	}
}

// The operator's last resort: zero stops what is under way within a second,
// deleting the file lets it go on, and both are in the log.
func TestZeroStopsAndDeletingLifts(t *testing.T) {
	b := newBench(t)
	b.in(func(ctx context.Context) {
		for range 100 {
			if err := b.ship.Wait(ctx, 1<<20); err != nil {
				t.Fatal(err)
			}
		}
		b.write(Ship, "0\n")
		<-time.After(PollEvery + time.Millisecond) // of the bubble
		began := time.Now()
		var passed time.Duration
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := b.ship.Wait(ctx, 1); err != nil {
				t.Error(err)
			}
			passed = time.Since(began)
		})
		<-time.After(time.Hour) // of the bubble
		if ok, after := b.ship.Take(0); ok || after != PollEvery {
			t.Errorf("take while stopped: %v, again in %s", ok, after)
		}
		st := b.rates.Status().Rates[0]
		if st.Text() != "0 bytes/s (stopped)" || st.Waiting != 1 || st.WaitedSeconds < 3600 || st.Since.IsZero() {
			t.Errorf("status %+v", st)
		}
		b.remove(Ship)
		wg.Wait()
		if passed < time.Hour || passed > time.Hour+time.Second {
			t.Errorf("let through after %s, want within a second of lifting", passed)
		}
		if st := b.rates.Status().Rates[0]; st.Limit != nil || st.Waiting != 0 || st.Changes != 2 {
			t.Errorf("status %+v", st)
		}
	})
	b.wantLog(
		`level=WARN msg="rate changed" rate=ship from="no limit" to="0 bytes/s (stopped)" file=ship`,
		`level=WARN msg="rate changed" rate=ship from="0 bytes/s (stopped)" to="no limit" file=ship`,
	)
}

// A daemon that was stopped by a file starts stopped.
func TestReadBeforeWorkBegins(t *testing.T) {
	b := newBench(t)
	b.write(Ship, "0")
	b.rates.Read()
	if ok, _ := b.ship.Take(1); ok {
		t.Error("let through")
	}
}

func TestUnusableFileKeepsTheLastGoodValue(t *testing.T) {
	for name, spoil := range map[string]func(b *bench){
		"garbage":   func(b *bench) { b.write(Ship, "fast") },
		"negative":  func(b *bench) { b.write(Ship, "-1") },
		"empty":     func(b *bench) { b.write(Ship, "") },
		"too large": func(b *bench) { b.write(Ship, "99999999999999999999") },
		"long":      func(b *bench) { b.write(Ship, strings.Repeat("1", 1<<20)) },
		"directory": func(b *bench) {
			b.remove(Ship)
			if err := os.Mkdir(filepath.Join(b.dir, Ship), 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"pipe": func(b *bench) {
			b.remove(Ship)
			if err := syscall.Mkfifo(filepath.Join(b.dir, Ship), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.write(Ship, "1000")
			b.rates.Read()
			spoil(b)
			b.log.take()
			b.rates.Read()
			if st := b.rates.Status().Rates[0]; st.Error != "" {
				t.Errorf("complains at the first look, when the file may be half written: %+v", st)
			}
			b.rates.Read()
			b.rates.Read()
			st := b.rates.Status().Rates[0]
			if st.Error == "" || len(st.Error) > 200 || st.Text() != "1000 bytes/s" {
				t.Errorf("status %+v", st)
			}
			if n := strings.Count(b.log.take(), "level=ERROR"); n != 1 {
				t.Errorf("%d error lines, want 1", n)
			}
			if err := os.Remove(filepath.Join(b.dir, Ship)); err != nil {
				t.Fatal(err)
			}
			b.write(Ship, "1000")
			b.rates.Read()
			if st := b.rates.Status().Rates[0]; st.Error != "" || st.Changes != 1 {
				t.Errorf("status %+v", st)
			}
			b.wantLog(`level=INFO msg="rate usable again" rate=ship file=ship`)
		})
	}
}

// An editor may delete a file and write it anew: that does not lift the limit.
func TestFileGoneForAMomentIsNotLifted(t *testing.T) {
	b := newBench(t)
	b.write(Ship, "0")
	b.rates.Read()
	b.remove(Ship)
	b.rates.Read()
	if _, limited := b.ship.Rate(); !limited {
		t.Error("lifted at the first look")
	}
	b.write(Ship, "0")
	b.rates.Read()
	if st := b.rates.Status().Rates[0]; st.Changes != 1 {
		t.Errorf("status %+v", st)
	}
}

func TestMisspeltFileIsShown(t *testing.T) {
	b := newBench(t)
	for _, name := range []string{"shipp", Receive, "ship.1234abcd.tmp", "ship~", "README"} {
		b.write(name, "0")
	}
	b.rates.Read()
	b.rates.Read()
	st := b.rates.Status()
	if len(st.Unknown) != 1 || st.Unknown[0] != "shipp" {
		t.Errorf("unknown files %q", st.Unknown)
	}
	b.wantLog(`level=WARN msg="rate of that name is obeyed by no daemon" file=shipp`)
}

func TestMissingDirectoryIsNoLimit(t *testing.T) {
	b := newBench(t)
	if err := os.Remove(b.dir); err != nil {
		t.Fatal(err)
	}
	b.rates.Read()
	b.rates.Read()
	if st := b.rates.Status(); st.Error != "" || st.Rates[0].Limit != nil || st.Rates[0].Error != "" {
		t.Errorf("status %+v", st)
	}
	if err := os.WriteFile(b.dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.rates.Read()
	b.rates.Read()
	if st := b.rates.Status(); st.Error == "" || st.Rates[0].Error == "" {
		t.Errorf("a file in the directory's place is not shown: %+v", st)
	}
}

// Whatever the sizes, the average is the rate, and at the beginning no more than
// one bucket goes at once.
func TestRateIsKept(t *testing.T) {
	for _, tc := range []struct {
		rate  string
		sizes []int
	}{
		{"1000", []int{1}},
		{"1000", []int{100, 250, 251, 3}},
		{"1000", []int{100_000}},
		{"50MiB", []int{1 << 20, 160, 7}},
		{"1", []int{1}},
	} {
		b := newBench(t)
		b.write(Ship, tc.rate)
		b.in(func(ctx context.Context) {
			rate, _ := b.ship.Rate()
			began, passed, last := time.Now(), 0, 0
			for i := 0; time.Since(began) < 10*time.Minute && i < 20_000; i++ {
				last = tc.sizes[i%len(tc.sizes)]
				if err := b.ship.Wait(ctx, last); err != nil {
					t.Fatal(err)
				}
				passed += last
			}
			most := float64(rate)*time.Since(began).Seconds() + max(1, float64(rate)*Burst.Seconds()) + float64(last)
			least := float64(rate)*time.Since(began).Seconds() - max(1, float64(rate)*Burst.Seconds())
			if p := float64(passed); p > most || p < least {
				t.Errorf("rate %s, sizes %v: %d passed in %s, want %.0f to %.0f", tc.rate, tc.sizes, passed, time.Since(began), least, most)
			}
		})
	}
}

// After an idle hour only a bucket's worth goes at once.
func TestIdleTimeIsNotSaved(t *testing.T) {
	b := newBench(t)
	b.write(Ship, "1000")
	b.in(func(context.Context) {
		<-time.After(time.Hour) // of the bubble
		taken := 0
		for {
			ok, after := b.ship.Take(10)
			if !ok {
				if after <= 0 || after > 10*time.Millisecond {
					t.Errorf("again in %s", after)
				}
				break
			}
			taken += 10
		}
		if taken != 250 {
			t.Errorf("took %d, want a bucket of 250", taken)
		}
	})
}

// What is owed under a slow rate does not outlive its lifting, and a faster rate
// pays it off faster.
func TestChangeActsOnThoseWhoWait(t *testing.T) {
	b := newBench(t)
	b.write(Ship, "1")
	b.in(func(ctx context.Context) {
		if err := b.ship.Wait(ctx, 1<<20); err != nil { // days at this rate
			t.Fatal(err)
		}
		began := time.Now()
		b.write(Ship, "1MiB")
		if err := b.ship.Wait(ctx, 1); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("waited %s after the change", took)
		}
	})
}

func TestWaitIsServedInOrderAndCanBeCancelled(t *testing.T) {
	b := newBench(t)
	b.write(Ship, "0")
	b.in(func(ctx context.Context) {
		var (
			mu    sync.Mutex
			order []int
			wg    sync.WaitGroup
		)
		given, cancel := context.WithCancel(ctx)
		for i := range 5 {
			wg.Go(func() {
				ctx := ctx
				if i == 0 || i == 2 { // the head of the queue and one within it
					ctx = given
				}
				err := b.ship.Wait(ctx, 1000)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case errors.Is(err, context.Canceled):
				case err != nil:
					t.Error(err)
				default:
					order = append(order, i)
				}
			})
			synctest.Wait()
		}
		cancel()
		synctest.Wait()
		b.write(Ship, "100")
		wg.Wait()
		if len(order) != 3 || order[0] != 1 || order[1] != 3 || order[2] != 4 {
			t.Errorf("served in order %v", order)
		}
	})
}

func TestNoLimitAllocatesNothing(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	if n := testing.AllocsPerRun(1000, func() {
		if err := b.ship.Wait(ctx, 1); err != nil {
			t.Fatal(err)
		}
		b.ship.Take(1)
	}); n != 0 {
		t.Errorf("%v allocations without a limit", n)
	}
	b.write(Ship, "1TiB")
	b.rates.Read()
	if n := testing.AllocsPerRun(1000, func() { b.ship.Take(1) }); n != 0 {
		t.Errorf("%v allocations in Take under a limit", n)
	}
}

func BenchmarkWaitNoLimit(b *testing.B) {
	l := newLimiter()
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		_ = l.Wait(ctx, 1)
	}
}

func TestUnknownNamePanics(t *testing.T) {
	b := newBench(t)
	defer func() {
		if recover() == nil {
			t.Error("a limit that nobody set up was handed out")
		}
	}()
	b.rates.Limiter("nobody")
}

func TestMetrics(t *testing.T) {
	b := newBench(t)
	b.write(Ship, "1KiB")
	b.write(Admit, "x")
	b.rates.Read()
	b.rates.Read()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(b.rates)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	want := map[string]float64{
		"tidegate_rates_limit ship bytes/s":         1024, // admit has none, and none is not 0
		"tidegate_rates_file_unusable admit":        1,
		"tidegate_rates_file_unusable ship":         0,
		"tidegate_rates_waiting admit":              0,
		"tidegate_rates_waiting ship":               0,
		"tidegate_rates_waited_seconds_total admit": 0,
		"tidegate_rates_waited_seconds_total ship":  0,
		"tidegate_rates_changes_total admit":        0,
		"tidegate_rates_changes_total ship":         1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSetLookLift(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etc", "rates")
	ship := For(DaemonAgent)[0]
	if _, limited, err := Look(dir, ship); limited || err != nil {
		t.Errorf("limited %v, %v", limited, err)
	}
	if err := Set(vfs.OS(), dir, ship, 0); err != nil {
		t.Fatal(err)
	}
	if n, limited, err := Look(dir, ship); n != 0 || !limited || err != nil {
		t.Errorf("%d, limited %v, %v", n, limited, err)
	}
	for range 2 {
		if err := Lift(vfs.OS(), dir, ship); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, Ship), []byte("slow"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Look(dir, ship); tidegate.ClassOf(err) != tidegate.Misuse || tidegate.HintOf(err) == "" {
		t.Errorf("error %v", err)
	}
}

func TestText(t *testing.T) {
	for _, tc := range []struct {
		unit Unit
		text string
		want string // "" for a refusal
	}{
		{BytesPerSecond, "0", "0 bytes/s (stopped)"},
		{BytesPerSecond, " 50MiB \n", "50MiB/s"},
		{BytesPerSecond, "1000", "1000 bytes/s"},
		{BytesPerSecond, "50MB", ""},
		{RecordsPerSecond, "1000", "1000 records/s"},
		{RecordsPerSecond, "1KiB", ""},
		{RecordsPerSecond, "1e3", ""},
		{RecordsPerSecond, "0.5", ""}, // rounded down it would stop everything
		{BytesPerSecond, "0.5", ""},
	} {
		n, err := tc.unit.Parse(tc.text)
		got := ""
		if err == nil {
			got = tc.unit.Text(n, true)
		}
		if got != tc.want {
			t.Errorf("%s %q: %q (%v), want %q", tc.unit, tc.text, got, err, tc.want)
		}
	}
}
