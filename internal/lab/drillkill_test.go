package lab_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/schedule"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/procgroup"
)

// passes changes the record of the service's schedule to what it would be had more time
// gone by: no test waits for an hour.
func (a *act) passes(t *testing.T, edit func(*schedule.State)) {
	t.Helper()
	store, err := a.etcd.Records()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	key := registry.ScheduleKey(lab.Service)
	a.until(t, "time to pass on record", func(ctx context.Context) error { // a gate may change it at the same moment
		var s registry.Schedule
		rev, err := store.Get(ctx, key, &s)
		if err != nil || rev == 0 {
			return errors.Join(err, fmt.Errorf("schedule of revision %d", rev))
		}
		edit(&s.State)
		_, err = store.Commit(ctx, new(registry.Tx).Unchanged(key, rev).Put(key, s))
		return err
	})
}

// sandbox is the one that is there, and its mark, which its processes have in their
// environment.
func (s *stage) sandbox(t *testing.T) (path, mark string) {
	t.Helper()
	boxes, err := filepath.Glob(s.File("drills", "drill-*"))
	if err != nil || len(boxes) != 1 {
		t.Fatalf("sandboxes %v: %v", boxes, err)
	}
	return boxes[0], strings.TrimPrefix(filepath.Base(boxes[0]), "drill-")
}

func inhabitants(t *testing.T, mark string) []int {
	t.Helper()
	pids, err := procgroup.Find(func(pid int) bool { return procgroup.HasVariable(pid, "TIDEGATE_DRILL="+mark) })
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

// workerKilled kills a worker in the middle of a drill, and starts it again. It cleans up
// what the killed one has left, and the gates count the drill as interrupted.
func workerKilled(t *testing.T, a *act) (killed *pb.RunningDrill) {
	t.Helper()
	a.passes(t, func(s *schedule.State) { s.Taken = s.Taken.Add(-time.Hour) }) // so that the next one is due
	a.begins(t)
	killed = a.holds(t)
	box, mark := a.sandbox(t)
	a.Proc(workerName).Kill()
	begun := time.Now()
	if left := inhabitants(t, mark); len(left) < 2 {
		t.Errorf("processes %v: want the clone and its check, which nobody has ended", left)
	}
	a.work(t)
	a.until(t, "the worker to clean up", func(context.Context) error {
		if text := a.log(t, workerName); !strings.Contains(text, `"what":"sandbox `+box+`"`) {
			return errors.New(text)
		}
		return nil
	})
	a.leftOver(t, 0)
	if left := inhabitants(t, mark); len(left) > 0 {
		t.Errorf("processes %v of a sandbox that was cleaned", left)
	}
	took := since(begun)
	d := a.drilled(t, "the drill to lapse", func(d *pb.ServiceDrills) bool { return d.GetEnded().GetClaim() == killed.GetClaim() })
	t.Logf("of the killed worker's drill the machine was clean after %s, and the gates rid after %s", took, since(begun))
	if d.GetRunning() != nil || d.GetPending() == nil || d.GetEnded().GetOutcome() != string(evidence.Interrupted) {
		t.Errorf("want it interrupted, and begun again: %v", d)
	}
	says(t, d.GetEnded().GetWhy(), killed.GetWorker()+" was silent for ")
	says(t, d.GetWhy(), "the last try did not come to its end; the next one comes at ")
	return killed
}

// leaderKilled kills the gate that leads in the middle of the next try of a drill, which
// goes on and passes. Of the try that was killed there is no report, of this one there is one.
func leaderKilled(t *testing.T, a *act, killed *pb.RunningDrill) {
	t.Helper()
	a.passes(t, func(s *schedule.State) { s.Again = time.Now().Add(-time.Second).UTC() }) // so that it is tried again
	drill := a.holds(t)
	if drill.GetClaim() == killed.GetClaim() || !drill.GetOccurrence().AsTime().Equal(killed.GetOccurrence().AsTime()) {
		t.Errorf("runs %v, killed %v", drill, killed)
	}
	leader := a.leader(t, "")
	a.Proc(processOf(leader)).Kill()
	begun := time.Now()
	next := a.leader(t, leader)
	a.drilled(t, "the worker to have told the next leader", func(d *pb.ServiceDrills) bool {
		return d.GetRunning().GetClaim() == drill.GetClaim() && held(d)
	})
	t.Logf("%s heard of the drill %s after kill -9 of %s", next, since(begun), leader)
	a.goesOn(t)
	d, rep := a.over(t, drill, evidence.Passed)
	t.Logf("it passed %s after kill -9: %s", since(begun), phasesText(rep))
	says(t, d.GetWhy(), "none is due")
	if rep.Number != 2 { // the first is of the one that was called off
		t.Errorf("report %d", rep.Number)
	}
	a.onceOnRecord(t, killed, drill, rep)
	a.Proc(workerName).Stop(patience)
}

// onceOnRecord fails the test unless the audit trail has each try of a drill once, and the
// report of the second.
func (a *act) onceOnRecord(t *testing.T, killed, drill *pb.RunningDrill, rep evidence.Report) {
	t.Helper()
	trail := strings.Split(a.operate(t, 0, "audit", "--service", lab.Service, "--limit", "1000"), "\n")
	for _, want := range [][]string{
		{"drill-take", "claim=" + killed.GetClaim(), "try=1"},
		{"drill-lapse", "claim=" + killed.GetClaim(), "outcome=interrupted"},
		{"drill-take", "claim=" + drill.GetClaim(), "try=2"},
		{"drill-record", "report=" + rep.ID.String(), "outcome=passed"},
		{"drill-end", "claim=" + drill.GetClaim(), "outcome=passed", "report=" + rep.ID.String()},
	} {
		n := 0
		for _, entry := range trail {
			if !slices.ContainsFunc(want, func(part string) bool { return !strings.Contains(entry, part) }) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%v: %d times in the audit trail:\n%s", want, n, strings.Join(trail, "\n"))
		}
	}
}
