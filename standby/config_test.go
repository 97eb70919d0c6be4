package standby

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/vfs"
)

func TestConfigReportsEveryMistake(t *testing.T) {
	err := Config{Node: "UP", Site: "", SegmentBytes: -1, QuarantineBytesMax: -1, RejoinEvery: -time.Second}.Validate()
	for _, key := range []string{"node: ", "site: ", "data_dir: ", "segment_bytes: ", "quarantine_bytes_max: ", "rejoin_every: ", "limits: "} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s is not reported in: %v", key, err)
		}
	}
	if err := (Config{Node: "dr1", Site: "west", DataDir: "/d"}).SetDefaults().Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
}

func TestFormatIsExplicitAndOnce(t *testing.T) {
	mem := vfs.NewMem()
	if _, err := ReadNodeFile(mem, "/data"); tidegate.ClassOf(err) != tidegate.Misuse || !strings.Contains(tidegate.HintOf(err), "tidegate standby format") {
		t.Errorf("unformatted: %v, hint %q", err, tidegate.HintOf(err))
	}
	f, err := Format(mem, "/data", "dr1")
	if err != nil {
		t.Fatal(err)
	}
	again, err := Format(mem, "/data", "dr1")
	if tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("formatted twice: %+v, %v", again, err)
	}
	clone := mem.CrashClone(3)
	if got, err := ReadNodeFile(clone, "/data"); err != nil || got.Incarnation != f.Incarnation {
		t.Errorf("after a power cut: %+v, %v", got, err)
	}
	if _, err := Format(mem, "/other", "Not A Name"); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("bad name: %v", err)
	}
}

func TestDirectoryOfAnotherNodeIsRefused(t *testing.T) {
	c := newCluster(t, 1, nil, "dr1")
	nd := c.nodes["dr1"]
	if err := nd.stop(); err != nil {
		t.Fatal(err)
	}
	file, err := ReadNodeFile(nd.fs, nd.dir)
	if err != nil {
		t.Fatal(err)
	}
	file.Node = "dr9"
	if err := file.write(nd.fs, nd.dir); err != nil {
		t.Fatal(err)
	}
	if err := nd.n.Run(t.Context()); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("got %v", err)
	}
}

// A view is what all messages of one watch add up to.
func TestWatchViewAddsUp(t *testing.T) {
	service := func(name string, streams ...*pb.StreamView) *pb.ServiceView {
		return &pb.ServiceView{Name: name, Streams: streams}
	}
	stream := func(id byte, name string) *pb.StreamView {
		return &pb.StreamView{Id: tidegate.ID{id}.String(), Service: "s", Name: name, Store: "journal", Members: []string{"dr1"}}
	}
	standby, agent := pb.NodeKind_NODE_KIND_STANDBY, pb.NodeKind_NODE_KIND_AGENT
	var w watchView
	var err error
	var changed bool
	for _, step := range []struct {
		m       *pb.WatchResponse
		changed bool
		streams string
		nodes   int
	}{
		{&pb.WatchResponse{Snapshot: true, Services: []*pb.ServiceView{service("a", stream(1, "x")), service("b", stream(2, "y"))}}, true, "x y", 0},
		{&pb.WatchResponse{}, false, "x y", 0}, // a beat
		{&pb.WatchResponse{Nodes: []*pb.NodeView{{Node: "dr1", Kind: standby, ShipAddress: "h:1"}, {Node: "app1", Kind: agent}}}, true, "x y", 1},
		{&pb.WatchResponse{Services: []*pb.ServiceView{service("a", stream(1, "x"), stream(3, "z"))}}, true, "x z y", 1},
		{&pb.WatchResponse{RemovedServices: []string{"b"}}, true, "x z", 1},
		{&pb.WatchResponse{Snapshot: true}, true, "", 0},
	} {
		if w, changed, err = w.with(step.m); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, s := range w.view().Streams {
			names = append(names, string(s.Name))
		}
		if got := strings.Join(names, " "); changed != step.changed || got != step.streams || len(w.view().Nodes) != step.nodes {
			t.Errorf("%v: changed %v, streams %q, %d nodes", step.m, changed, got, len(w.view().Nodes))
		}
	}
	bad := stream(1, "../up")
	if _, _, err := w.with(&pb.WatchResponse{Services: []*pb.ServiceView{service("a", bad)}}); err == nil {
		t.Error("a stream's name that leads elsewhere was accepted")
	}
}

func TestUnreadableViewIsAnError(t *testing.T) {
	mem := vfs.NewMem()
	if err := mem.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	if v, err := readView(mem, "/d/view.json"); err != nil || len(v.Streams) != 0 {
		t.Errorf("missing: %+v, %v", v, err)
	}
	f, err := mem.Create("/d/view.json")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte(`{"version": 1, "streams": [`)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := readView(mem, "/d/view.json"); tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("cut: %v", err)
	}
	if err := errors.Join(mem.Remove("/d/view.json"), writeView(mem, "/d/view.json", View{Streams: []StreamView{{Name: "x"}}})); err != nil {
		t.Fatal(err)
	}
	if v, err := readView(mem, "/d/view.json"); err != nil || len(v.Streams) != 1 {
		t.Errorf("kept: %+v, %v", v, err)
	}
}
