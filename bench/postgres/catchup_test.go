//go:build bench

package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// warmPort is the warm server's.
const warmPort = pgtest.Port + 1

// askWarm asks the warm server of our crossing over its own socket.
func (r *rig) askWarm(ctx context.Context, sql string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := pgconn.Connect(ctx, fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres sslmode=disable", filepath.Join(r.home, "run"), warmPort))
	if err != nil {
		return "", err
	}
	results, err := c.Exec(ctx, sql).ReadAll()
	err = errors.Join(err, c.Close(context.WithoutCancel(ctx)))
	if err != nil || len(results) == 0 || len(results[0].Rows) == 0 {
		return "", errors.Join(err, errors.New("no answer"))
	}
	return string(results[0].Rows[0][0]), nil
}

// warmPID is the warm server's postmaster.
func (r *rig) warmPID() int {
	r.t.Helper()
	files, err := filepath.Glob(filepath.Join(r.home, "*", "*", "postmaster.pid"))
	if err != nil || len(files) != 1 {
		r.t.Fatalf("the warm server's pid: %v %v", files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		r.t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		r.t.Fatal(err)
	}
	return pid
}

func (r *rig) freezeWarm(frozen bool) {
	r.t.Helper()
	sig := syscall.SIGCONT
	if frozen {
		sig = syscall.SIGSTOP
	}
	pid := r.warmPID()
	for _, pid := range append(r.children(pid), pid) {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			r.t.Fatal(err)
		}
	}
}

// replayed waits until a standby that is asked by ask has replayed all to end.
func (r *rig) replayed(end wal.LSN, ask func(context.Context, string) (string, error)) {
	r.t.Helper()
	r.poll(func(ctx context.Context) error {
		got, err := ask(ctx, "SELECT pg_last_wal_replay_lsn() >= '"+end.String()+"'::pg_lsn")
		if err == nil && got != "t" {
			err = errors.New("not replayed")
		}
		return err
	})
}

// poll waits for a condition more impatiently than a lab does.
func (r *rig) poll(cond func(context.Context) error) {
	r.t.Helper()
	if err := pgtest.Poll(r.within(), cond); err != nil {
		r.t.Fatal(errors.Join(err, r.Died()))
	}
}

// benchCatchUp is a backlog that a hot standby replays: the native one from the
// primary, ours from the node's log, where all of it is already.
func benchCatchUp(t *testing.T, out *report) {
	r := newRig(t, plan{warm: true, scale: 10})
	native := r.native(0)
	askNative := func(ctx context.Context, sql string) (string, error) {
		rows, err := native.Query(ctx, sql)
		if err != nil || len(rows) == 0 {
			return "", errors.Join(err, errors.New("no answer"))
		}
		return rows[0][0], nil
	}
	r.replayed(r.end(), r.askWarm)
	var natives, ours, ratios spread
	replay := []string{"startup", "walreceiver"}
	cpu := map[string]func() processor{
		"native": func() processor {
			p := r.processorOf(native.PID(), replay, nil)
			maps.Copy(p, r.processorOf(r.primary.PID(), []string{"walsender"}, nil))
			return p
		},
		"ours": func() processor {
			return r.processorOf(r.warmPID(), replay, map[string]int{"standby node": r.Proc("standby-d1").PID()})
		},
	}
	for round := range *rounds {
		r.replayed(r.end(), askNative)
		r.replayed(r.end(), r.askWarm)
		native.Freeze(t, true)
		r.freezeWarm(true)
		from, to, _ := r.backlog(*size<<20, func() {})
		r.crossed("the backlog to be durable")
		rate, taken := map[string]float64{}, map[string]processor{}
		turn := func(name string, thaw func(), ask func(context.Context, string) (string, error)) func() {
			return func() {
				mb, before := float64(to-from)/1e6, cpu[name]()
				began := time.Now()
				thaw()
				r.replayed(to, ask)
				rate[name] = mb / time.Since(began).Seconds()
				taken[name] = cpu[name]().since(before, mb)
			}
		}
		turns := []func(){
			turn("native", func() { native.Freeze(t, false) }, askNative),
			turn("ours", func() { r.freezeWarm(false) }, r.askWarm),
		}
		turns[round%2]()
		turns[1-round%2]()
		t.Logf("round %d: %s of log replayed: natively %.0f MB/s, through us %.0f MB/s", round+1, mb(to-from), rate["native"], rate["ours"])
		t.Logf("         processor, ms for a MB of log: natively %s; through us %s", taken["native"], taken["ours"])
		natives.add(rate["native"])
		ours.add(rate["ours"])
		ratios.add(rate["ours"] / rate["native"])
	}
	out.line("Catch-up of a hot standby that was stopped for %d MB of log", *size)
	out.line("  natively %s MB/s, through us %s MB/s, ours / native %s   %s", natives, ours, ratios, atLeast(0.95).judge(ratios.median()))
}
