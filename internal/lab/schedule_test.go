package lab_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/shadow"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/vfs"
)

// schedules has an operator want a drill from the next full minute on. One an hour is the
// most that there can be, and what is played meanwhile is not waited for.
func (s *stage) schedules(t *testing.T) {
	t.Helper()
	const command = 5 * time.Second // how long the gate may take to hear of it
	at := time.Now().UTC().Add(command).Truncate(time.Minute).Add(time.Minute)
	text := s.operate(t, 0, "drill", "schedule", "--cron", fmt.Sprintf("%d * * * *", at.Minute()), "--zone", "UTC", "--jitter", "0s", "--settle", "0s", "--reason", "test", lab.Service)
	says(t, text, at.Format("15:04 UTC"))
}

// drills is how the service stands to its schedule, as an operator is shown it.
func (s *stage) drills(ctx context.Context) (*pb.ServiceDrills, error) {
	b, err := s.Tidegate(ctx, "drill", "status", "-o", "json", lab.Service)
	if err != nil {
		return nil, err
	}
	var all pb.DrillStatusResponse
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, &all); err != nil {
		return nil, err
	}
	return all.GetServices()[0], nil
}

// drilled waits until the service stands to its schedule in a way.
func (s *stage) drilled(t *testing.T, what string, ok func(*pb.ServiceDrills) bool) (d *pb.ServiceDrills) {
	t.Helper()
	s.until(t, what, func(ctx context.Context) (err error) {
		if d, err = s.drills(ctx); err == nil && !ok(d) {
			err = errors.New(d.String())
		}
		return err
	})
	return d
}

// begins starts a worker, which takes the drill that is due. It stays in its checks until
// the file hold is removed.
func (s *stage) begins(t *testing.T) *pb.RunningDrill {
	t.Helper()
	s.workerFiles(t)
	due := s.drilled(t, "a drill to be due", func(d *pb.ServiceDrills) bool { return d.GetPending() != nil }).GetPending()
	s.work(t)
	r := s.drilled(t, "a worker to take the drill", func(d *pb.ServiceDrills) bool { return d.GetRunning() != nil }).GetRunning()
	if !r.GetOccurrence().AsTime().Equal(due.GetAt().AsTime()) || r.GetLevel() != string(evidence.L1) {
		t.Errorf("runs %v, due %v", r, due)
	}
	says(t, s.operate(t, 0, "drill", "status", lab.Service), "runs: L1 shadow-promote on ", "worker: ")
	return r
}

// holds waits until a worker has a drill in its checks.
func (s *stage) holds(t *testing.T) *pb.RunningDrill {
	t.Helper()
	begun := time.Now()
	r := s.drilled(t, "a worker to have the drill in its checks", held).GetRunning()
	t.Logf("in its checks after %s", since(begun))
	return r
}

// held reports whether a drill that a worker has taken is in its checks.
func held(d *pb.ServiceDrills) bool {
	return strings.HasPrefix(d.GetRunning().GetStep(), shadow.Checks.String())
}

// workerFiles writes what a worker is started with, and cleans up what it leaves when the
// test fails.
func (s *stage) workerFiles(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(s.File("hold"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path := s.File("scheduled", lab.Service+".yaml")
	if filed(path) {
		return
	}
	text, err := os.ReadFile(theDrillFile(t, s))
	if err != nil {
		t.Fatal(err)
	}
	var file tree
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	delete(file, "recovery") // takes longer, and the drill by hand has it
	maps.Copy(file, tree{
		"checks": []tree{{"name": "held", "command": tree{"run": []string{"/bin/bash", "-c", "while test -e " + s.File("hold") + "; do sleep 0.05; done"}}, "timeout": "5m"}},
		"harm":   tree{"blind": "5m", "for": "5m"}, // what is played meanwhile is not the drill's doing
	})
	if text, err = yaml.Marshal(file); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, text, 0o600)); err != nil {
		t.Fatal(err)
	}
}

const workerName = "worker"

// work starts the worker.
func (s *stage) work(t *testing.T) {
	t.Helper()
	for _, p := range s.Procs("") {
		if p.Name == workerName {
			start(t, p)
			return
		}
	}
	if err := s.StartProc(workerName, lab.SiteDR, s.Bin("tidegate"), "drill", "worker", "--config", s.File("scheduled"), "--every", "100ms"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Proc(workerName).Kill()
		if _, err := shadow.CleanUp(vfs.OS(), clock.System(), s.File("drills")); err != nil {
			t.Error(err)
		}
	})
}

// goesOn lets a drill that is held come to its end.
func (s *stage) goesOn(t *testing.T) {
	t.Helper()
	if err := os.Remove(s.File("hold")); err != nil {
		t.Fatal(err)
	}
}

// over waits until a drill has ended in a way, with nothing left of it, and returns its report.
func (s *stage) over(t *testing.T, drill *pb.RunningDrill, want evidence.Outcome) (d *pb.ServiceDrills, rep evidence.Report) {
	t.Helper()
	d = s.drilled(t, "the drill's end to be on record", func(d *pb.ServiceDrills) bool { return d.GetEnded().GetClaim() == drill.GetClaim() })
	files, err := evidence.NewStore(dir.New(vfs.OS(), s.File("evidence"))).Files(t.Context(), lab.Service, 1)
	if err != nil || len(files) != 1 {
		t.Fatalf("%d reports: %v", len(files), err)
	}
	sealed, err := evidence.Open(files[0])
	if err != nil {
		t.Fatal(err)
	}
	rep = sealed.Report
	if e := d.GetEnded(); d.GetRunning() != nil || e.GetOutcome() != string(want) || rep.Verdict.Outcome != want || d.GetLast().GetId() != rep.ID.String() {
		t.Errorf("want %s and its report on record: %v\n%+v", want, d, rep.Verdict)
	}
	s.leftOver(t, 0)
	return d, rep
}

// leftOver fails the test unless so many sandboxes of drills are there.
func (s *stage) leftOver(t *testing.T, want int) {
	t.Helper()
	if boxes, err := filepath.Glob(s.File("drills", "drill-*")); err != nil || len(boxes) != want {
		t.Errorf("left over: %v, want %d: %v", boxes, want, err)
	}
}

// calledOff has an operator call a scheduled drill off, whose report says who and why.
func calledOff(t *testing.T, s *stage) {
	drill := s.begins(t)
	s.operate(t, 0, "drill", "abort", "--reason", "month end", lab.Service)
	d, rep := s.over(t, drill, evidence.Interrupted)
	says(t, strings.Join(rep.Verdict.Reasons, "\n"), "it was called off: operator/ada: month end, in step ")
	says(t, d.GetWhy(), "none is due") // it is not begun again
	s.Proc(workerName).Stop(patience)
}
