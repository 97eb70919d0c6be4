package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"connectrpc.com/connect"
	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/live"
	cold "github.com/tidegate/tidegate/archive/restore"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/pki"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/snapshot"
)

// fromFlags are those of the commands that read an archive or a node of the standby
// cluster.
func fromFlags(more ...ucli.Flag) []ucli.Flag {
	return archiveFlags(operatorFlags(append([]ucli.Flag{
		&ucli.StringFlag{Name: "from", Usage: "`HOST:PORT` of the API of a standby node, in place of an archive; with an operator's certificate"},
	}, more...)...)...)
}

// place is where a stream is read from: an archive, or a node.
type place struct {
	r    *archive.Reader
	s    *archive.Stream
	kind storeKind
	node *nodePlace // nil: an archive

	fetched time.Duration // that the base took to come from the node; 0: none came
}

// nodePlace is a node, and the bases that it says it can give.
type nodePlace struct {
	*live.Bucket

	held []archive.Base // of all streams
}

// openStream opens the one stream that --service names, out of the archive or the node
// that the flags name. A node's bases are fetched into stage.
func openStream(c *ucli.Context, stage string) (p *place, err error) {
	p = &place{}
	if c.String("from") == "" {
		if p.r, err = openArchive(c); err != nil {
			return nil, err
		}
		p.s, p.kind, err = archivedStream(c, p.r)
		return p, err
	}
	if p.node, p.r, err = openFrom(c, stage); err != nil {
		return nil, err
	}
	p.s, p.kind, err = archivedStream(c, p.r)
	return p, notPermitted(err)
}

// openFrom opens the node that --from names.
func openFrom(c *ucli.Context, stage string) (*nodePlace, *archive.Reader, error) {
	if c.String("archive")+c.String("url") != "" {
		return nil, nil, cli.Usagef("a stream is read from one place: --from, --archive or --url")
	}
	node, err := openNode(c, stage)
	if err != nil {
		return nil, nil, err
	}
	r, err := archive.OpenReader(c.Context, node)
	return node, r, err
}

// notPermitted gives a refusal for want of a role its exit code.
func notPermitted(err error) error {
	if r, refused := errors.AsType[*shipper.Refusal](err); refused && r.Code == shipper.CodeRole {
		return cli.WithCode(cli.Auth, err)
	}
	return err
}

// bases are those that a stream can be restored from; the caller closes them. Of a node
// they are those that have been fetched, and those that it holds, of which nothing but
// what the node says is known.
func (p *place) bases(ctx context.Context) (*archive.Bases, error) {
	out, err := p.s.Bases(ctx)
	if err != nil || p.node == nil {
		return out, err
	}
	for _, b := range p.node.held {
		if b.Stream == p.s.Info.Stream && !slices.ContainsFunc(out.All, func(o archive.Base) bool { return o.Name == b.Name }) {
			out.All = append(out.All, b)
		}
	}
	out.Sort()
	return out, nil
}

// fetch brings a plan's base from the node, unless it is here, and plans again with what
// has come.
func (p *place) fetch(c *ucli.Context, plan *cold.Plan, choice cold.Choice) (*cold.Plan, *archive.Bases, error) {
	info := p.s.Info
	if plan.Base != nil && plan.Base.Store == nil {
		name, began := plan.Base.Name, time.Now()
		err := withProgress(c, "fetch base from "+p.node.String(), p.node.Progress, func(ctx context.Context) error {
			return p.node.Fetch(ctx, info.Stream, name)
		})
		if err != nil {
			return nil, nil, notPermitted(fmt.Errorf("fetch base %.12s: %w", name, err))
		}
		p.fetched = time.Since(began)
	}
	var err error
	if p.s, err = p.r.Open(c.Context, info); err != nil {
		return nil, nil, err
	}
	bases, err := p.s.Bases(c.Context)
	if err != nil {
		return nil, nil, err
	}
	if choice.Base = cold.NoBase; plan.Base != nil {
		choice.Base = plan.Base.Name.String()
	}
	plan, err = cold.Choose(c.Context, p.s, bases, choice)
	if err != nil {
		bases.Close()
		return nil, nil, err
	}
	return plan, bases, nil
}

// openNode asks a node what it has.
func openNode(c *ucli.Context, stage string) (*nodePlace, error) {
	file, err := config.Load[operatorFile](roleFile(c))
	if err != nil {
		return nil, err
	}
	creds, err := pki.Load(file.TLS.Cert, file.TLS.Key, file.TLS.CA)
	if err != nil {
		return nil, err
	}
	addr := c.String("from")
	if err := config.Reachable("--from", addr); err != nil {
		return nil, cli.Usagef("%w", err)
	}
	tls := creds.ClientTLS(pki.Expect{Role: tidegate.RoleStandby})
	said, err := tidegatev1connect.NewStandbyServiceClient(api.NewHTTPClient(tls), "https://"+addr).Describe(c.Context, connect.NewRequest(&pb.DescribeRequest{}))
	if err != nil {
		return nil, cli.Remote("ask node", addr, err)
	}
	out := &nodePlace{}
	var streams []archive.StreamInfo
	for _, d := range said.Msg.GetStreams() {
		id, err := tidegate.ParseID(d.GetStreamId())
		if err != nil {
			return nil, fmt.Errorf("node %s: stream %q: %w", addr, d.GetStreamId(), err)
		}
		if d.GetName() == "" {
			continue // the gate has not said what it is
		}
		streams = append(streams, archive.StreamInfo{
			Stream: id, Service: tidegate.ServiceName(d.GetService()), Name: tidegate.StreamName(d.GetName()), Store: d.GetStore(),
		})
		for _, h := range d.GetBases() {
			b, err := heldBase(id, tidegate.NodeName(said.Msg.GetNode()), h)
			if err != nil {
				return nil, fmt.Errorf("node %s: stream %s: %w", addr, id, err)
			}
			out.held = append(out.held, b)
		}
	}
	out.Bucket = live.New(live.Config{
		Dialer: shipper.Dialer{TLS: tls, Clock: clock.System()}, Addr: said.Msg.GetShipAddress(), Node: tidegate.NodeName(said.Msg.GetNode()),
		Streams: streams, FS: vfs.OS(), Stage: stage,
	})
	return out, nil
}

// heldBase is a base as its node tells of it.
func heldBase(id tidegate.StreamID, node tidegate.NodeName, h *pb.HeldBase) (b archive.Base, err error) {
	b.Mirror.Node = node
	b.Bytes = int64(h.GetBytes()) //nolint:gosec // a size
	b.Info = snapshot.Info{
		Stream: id, Generation: tidegate.Generation(h.GetGeneration()), Opened: tidegate.Epoch(h.GetOpened()), Taken: h.GetTaken().AsTime().UnixNano(),
		Base: snapshot.Base{Start: tidegate.Position(h.GetStart()), End: tidegate.Position(h.GetEnd()), Lineage: tidegate.Lineage(h.GetLineage())},
	}
	if h.GetEpoch() != "" {
		b.Attrs = map[string]string{snapshot.AttrEpoch: h.GetEpoch()}
	}
	b.Name, err = snapshot.ParseName(h.GetName())
	return b, err
}

// stageOf is where the base of a restore from a node lies until that has come to its
// end; empty where there is none.
func stageOf(c *ucli.Context, target cold.Target) (string, error) {
	if c.String("from") == "" || c.Bool("dry-run") {
		return "", nil
	}
	stage := target.Dir + ".base"
	if err := target.Begun(); err != nil {
		return stage, err
	}
	return stage, checkStage(target.FS, stage)
}

// checkStage refuses a directory that has anything but what fetches have left.
func checkStage(fsys vfs.FS, stage string) error {
	parts, err := fsys.List(stage)
	if errors.Is(err, tidegate.ErrNotFound) {
		return nil
	}
	no := func(path string) error {
		return &tidegate.Error{
			Op: "fetch a base into", Subject: stage, Class: tidegate.Refused, Err: fmt.Errorf("it has %s, which no restore has left", path),
			Hint: "the base is fetched into a directory beside that of --into: name another one; nothing in this one is touched",
		}
	}
	for _, part := range parts {
		dir := filepath.Join(stage, part)
		if _, err := tidegate.ParseID(part); err != nil {
			return no(dir)
		}
		files, err := fsys.List(dir)
		if err != nil {
			return err
		}
		for _, file := range files {
			if !slices.Contains(snapshot.StoreNames(), file) {
				return no(filepath.Join(dir, file))
			}
		}
	}
	return err
}

// unstage removes a stream's base that was fetched, once it has been restored.
func unstage(stage string, id tidegate.StreamID) error {
	if stage == "" {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(stage, id.String())); err != nil {
		return err
	}
	err := os.Remove(stage)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTEMPTY) { // another restore's is there
		return nil
	}
	return err
}
