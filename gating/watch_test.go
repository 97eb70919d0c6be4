package gating

import (
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/internal/clock"
)

// Every report of a route used to wake every watcher, and every one of them sent
// a message: with ten peers that was half a core of nothing new.
func TestWatchIsSilentWhileNothingChanges(t *testing.T) {
	v := &registry.View{Revision: 1}
	none := func(tidegate.ServiceName) string { return "" }
	w := watcher{sent: map[string]*pb.ServiceView{}}
	if m := w.next(v, true, false, none); !m.GetSnapshot() || m.GetRevision() != 1 {
		t.Fatalf("first message %v, want a snapshot even of nothing", m)
	}
	if m := w.next(v, true, false, none); m != nil {
		t.Errorf("nothing changed, sent %v", m)
	}
	if m := w.next(v, true, true, none); m.GetRevision() != 2 || m.GetSnapshot() {
		t.Errorf("beat %v", m)
	}
	if m := w.next(v, false, false, none); m == nil || m.GetRegistryReachable() {
		t.Errorf("registry lost, sent %v", m)
	}
	if m := w.next(v, false, false, none); m != nil {
		t.Errorf("registry still lost, sent %v", m)
	}
}

func TestRouteReportWakesOnlyForNews(t *testing.T) {
	w := newWorld(clock.NewFake(time.Unix(1, 0)))
	report := func(epoch uint64, connections uint32) bool {
		_, _, changed := w.current()
		w.reportRoute(&pb.ReportRouteRequest{Name: "r", Services: []*pb.RouteApplied{{Service: "s", Epoch: epoch, Connections: connections}}})
		select {
		case <-changed:
			return true
		default:
			return false
		}
	}
	for i, c := range []struct {
		epoch       uint64
		connections uint32
		want        bool
	}{{1, 0, true}, {1, 5, false}, {2, 5, true}, {2, 5, false}} {
		if got := report(c.epoch, c.connections); got != c.want {
			t.Errorf("report %d woke the watchers: %v", i, got)
		}
	}
}
