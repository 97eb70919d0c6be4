package standby

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

// View is what the gate tells a node: all of it, as of one moment.
type View struct {
	Version int          `json:"version"` // viewVersion
	Streams []StreamView `json:"streams"`
	Nodes   []NodeView   `json:"nodes"`
	// Gaps are all that were ever accepted and told, also of streams that the gate does not
	// say at present. Only a node's own view has them.
	Gaps map[tidegate.StreamID][]tidegate.Gap `json:"gaps,omitempty"`
}

// remember adds what an older view knew of gaps.
func (v *View) remember(old View) {
	gaps := maps.Clone(old.Gaps)
	if gaps == nil {
		gaps = map[tidegate.StreamID][]tidegate.Gap{}
	}
	for _, streams := range [][]StreamView{old.Streams, v.Streams} {
		for i := range streams {
			if s := &streams[i]; len(gaps[s.ID])+len(s.Gaps) > 0 {
				gaps[s.ID] = tidegate.MergeGaps(gaps[s.ID], s.Gaps)
			}
		}
	}
	for i := range v.Streams {
		v.Streams[i].Gaps = gaps[v.Streams[i].ID]
	}
	v.Gaps = gaps
}

// StreamView is one stream as a node needs to see it.
type StreamView struct {
	ID      tidegate.StreamID    `json:"id"`
	Service tidegate.ServiceName `json:"service"`
	Name    tidegate.StreamName  `json:"name"`
	Store   string               `json:"store"`   // "journal", "postgres"
	Members []tidegate.NodeName  `json:"members"` // configured standby set
	Mode    tidegate.Mode        `json:"mode"`
	Bounds  tidegate.Bounds      `json:"bounds"`
	Record  *fence.EpochRecord   `json:"record,omitempty"` // nil before the stream is registered
	// Renewal is kept for whoever rebuilds the registry; nil when there was none.
	Renewal *Renewal `json:"renewal,omitempty"`
	// Gaps are all that was ever given up, oldest first: for the archive, too.
	Gaps []tidegate.Gap `json:"gaps,omitempty"`

	// fresh: the gate has said so in this run. What the last run left on disk may be
	// long over.
	fresh bool
}

// Renewal is the newest declaration that the source at a site does not continue the
// log as it stands at the end of an epoch.
type Renewal struct {
	Epoch  tidegate.Epoch    `json:"epoch"`
	Node   tidegate.NodeName `json:"node"` // whose source it was said of
	Site   tidegate.SiteName `json:"site"`
	Reason string            `json:"reason"`
	Actor  string            `json:"actor"`
	Since  time.Time         `json:"since"`
}

// NodeView is where a standby node can be reached.
type NodeView struct {
	Node        tidegate.NodeName    `json:"node"`
	Site        tidegate.SiteName    `json:"site"`
	Incarnation tidegate.Incarnation `json:"incarnation"`
	Ship        string               `json:"ship"` // host:port
	API         string               `json:"api"`  // host:port
}

// Directory is the gate as a node sees it.
type Directory interface {
	// Watch registers self and calls update with the whole view, at once and
	// after every change, one call at a time, until ctx ends, and returns nil
	// then. It reconnects and registers again by itself; while no gate can be
	// reached it does not call. update keeps what it is given.
	Watch(ctx context.Context, self NodeView, update func(View)) error
	// ReadEpoch reads a stream's record linearizably. An error is transient
	// while no gate can be reached.
	ReadEpoch(ctx context.Context, stream tidegate.StreamID) (fence.EpochRecord, error)
	// Report tells the gate the node's state; sent each second. An error is
	// transient while no gate can be reached.
	Report(ctx context.Context, st Status) error
	// ReportTail tells the gate what a library left behind; repeating it changes
	// nothing. An error is transient while no gate can be reached.
	ReportTail(ctx context.Context, t Tail) error
}

const viewVersion = 1

func (v *View) node(name tidegate.NodeName) (NodeView, bool) {
	i := slices.IndexFunc(v.Nodes, func(n NodeView) bool { return n.Node == name })
	if i < 0 {
		return NodeView{}, false
	}
	return v.Nodes[i], true
}

func (v *View) stream(id tidegate.StreamID) (StreamView, bool) {
	i := slices.IndexFunc(v.Streams, func(s StreamView) bool { return s.ID == id })
	if i < 0 {
		return StreamView{}, false
	}
	return v.Streams[i], true
}

// sites returns where the standby nodes are.
func (v *View) sites() map[tidegate.NodeName]tidegate.SiteName {
	sites := make(map[tidegate.NodeName]tidegate.SiteName, len(v.Nodes))
	for _, n := range v.Nodes {
		sites[n.Node] = n.Site
	}
	return sites
}

// keeps reports whether node has a part in the stream: configured for it, or
// named by the epoch that is active now.
func (v *StreamView) keeps(node tidegate.NodeName) bool {
	return slices.Contains(v.Members, node) || v.Record != nil && v.Record.Config.Index(node) >= 0
}

// readView returns the view of the last run; an empty one if there is none.
func readView(fsys vfs.FS, path string) (View, error) {
	b, err := readFile(fsys, path)
	if errors.Is(err, tidegate.ErrNotFound) {
		return View{Version: viewVersion}, nil
	}
	if err != nil {
		return View{}, fmt.Errorf("read view: %w", err)
	}
	var v View
	if err := json.Unmarshal(b, &v); err != nil {
		return View{}, fmt.Errorf("read view %s: %w", path, &tidegate.CorruptError{Path: path, Offset: -1, What: err.Error()})
	}
	if v.Version != viewVersion {
		return View{}, fmt.Errorf("read view %s: version %d: %w", path, v.Version, tidegate.ErrUnsupported)
	}
	return v, nil
}

func writeView(fsys vfs.FS, path string, v View) error {
	v.Version = viewVersion
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write view: %w", err)
	}
	return durable.WriteFile(fsys, path, b)
}
