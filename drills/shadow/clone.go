package shadow

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	cold "github.com/tidegate/tidegate/archive/restore"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores/journal/replay"
)

// pieceBytes is how long the pieces become in which a log is copied.
const pieceBytes = 8 << 20

// part is one stream of a clone.
type part struct {
	src    *archive.Stream
	bases  *archive.Bases
	to     cold.To
	digest tidegate.Digest   // that the live standby's service says; zero: it says none
	at     tidegate.Position // where it says so
	behind uint64            // records of the batches behind that one
	begin  archive.Place     // the first batch that is copied
	end    archive.Place     // the last one: the cut lies in it
	hold   tidegate.Seq      // the first one that is left for later
	base   string            // that the state begins with; empty: the log's beginning

	baseBytes      int64  // of its files
	records, bytes uint64 // of the backlog
	plan           *replay.Plan
}

// clone is a copy of a node's base and log in the sandbox.
type clone struct {
	fs    vfs.FS
	b     *sandbox
	log   bucket.Bucket // in the sandbox
	parts []*part
}

// openClone chooses what is copied of each stream: all up to the cut, of which the last
// records are the backlog.
func openClone(ctx context.Context, g *ground, left Backlog) (*clone, error) {
	c := &clone{fs: g.d.fs, b: g.box, log: dir.New(g.d.fs, g.box.log())}
	for i, info := range g.infos {
		p, err := choose(ctx, g, info, left.share(i, len(g.infos)))
		if p != nil {
			c.parts = append(c.parts, p)
		}
		if err != nil {
			return c, fmt.Errorf("%s/%s: %w", info.Service, info.Name, err)
		}
	}
	return c, nil
}

// choose opens a stream. Its cut is the end of what is committed, which lies behind what
// the live standby's service says the digest of: what that has not applied yet is what
// must be rehearsed.
func choose(ctx context.Context, g *ground, info archive.StreamInfo, left Backlog) (p *part, err error) {
	seen := g.look[info.Stream]
	src, err := g.reader.Open(ctx, info)
	if err != nil {
		return nil, err
	}
	p = &part{src: src}
	tip, err := src.Tip(ctx)
	if err != nil {
		return p, err
	}
	g.chosen()
	p.end, p.to.Seq = tip, tip.Seq
	latest := tip.Seq // that a base may lie before: the digest must lie in what is fed
	if !seen.Digest.IsZero() && (seen.DigestAt > 0 || tip.Next == 0) {
		p.digest, p.at = seen.Digest, seen.DigestAt
		said, err := cold.To{Position: p.at}.Place(ctx, src)
		if err != nil {
			return p, err
		}
		latest = said.Seq
		if p.behind, _, err = src.Count(ctx, said.Seq+1, tip.Seq); err != nil {
			return p, err
		}
	}
	if p.hold, err = left.first(ctx, src, tip); err != nil {
		return p, err
	}
	// Something lies before it: a service that has nothing cannot be told where to begin.
	before := cold.To{Seq: max(min(p.hold-1, latest), src.Branch.Segments[0].First)}
	at, err := before.Place(ctx, src)
	if err != nil {
		return p, err
	}
	err = g.d.src.Base(ctx, info.Stream, at, func(bytes int64, start tidegate.Position) error {
		return g.space.need(3*uint64(max(0, bytes)) + 2*uint64(tip.Next-min(start, tip.Next))) // as it comes, and as room says
	})
	if err != nil {
		return p, err
	}
	if src, err = g.reader.Open(ctx, info); err != nil { // with the base that has come
		return p, err
	}
	p.src = src
	if p.bases, err = src.Bases(ctx); err != nil {
		return p, err
	}
	plan, err := replay.Make(ctx, src, p.bases, replay.Choice{From: before, To: before})
	if err != nil {
		return p, err
	}
	if p.begin = plan.Begin; plan.Base != nil {
		p.base, p.baseBytes = plan.Base.Name.String(), plan.Base.Bytes
	}
	p.hold = max(p.hold, p.begin.Seq+1)
	if plan.Base != nil && plan.Base.Start > 0 { // what led to a base shows of which log it is
		if p.begin, err = src.AtPosition(ctx, plan.Base.Generation, plan.Base.Start-1); err != nil {
			return p, err
		}
	}
	p.records, p.bytes, err = src.Count(ctx, p.hold, p.end.Seq)
	return p, err
}

func (c *clone) close() {
	for _, p := range c.parts {
		if p.bases != nil {
			p.bases.Close()
		}
	}
}

// room refuses a clone that the sandbox's file system does not take: its log, and a
// service that keeps the log and the state again.
func (c *clone) room(s space) error {
	var need uint64
	for _, p := range c.parts {
		need += 2*uint64(p.end.Next-p.begin.First) + 2*uint64(max(0, p.baseBytes))
	}
	return s.need(need)
}

// head copies the log up to the backlog, and plans how the service is fed it.
func (c *clone) head(ctx context.Context, copied func(n int)) ([]*replay.Plan, error) {
	if err := c.put(ctx, archive.FormatName, archive.FormatDocument()); err != nil {
		return nil, err
	}
	for _, p := range c.parts {
		info := p.src.Info
		if err := c.put(ctx, archive.StreamName(info.Stream), info.Encode()); err != nil {
			return nil, err
		}
		if err := c.copy(ctx, p, p.begin.Seq, p.hold-1, copied); err != nil {
			return nil, err
		}
	}
	return c.plans(ctx, func(p *part) replay.Choice { return replay.Choice{To: cold.To{Seq: p.hold - 1}} })
}

// tail copies the backlog, and plans the rest.
func (c *clone) tail(ctx context.Context) ([]*replay.Plan, error) {
	for _, p := range c.parts {
		if err := c.copy(ctx, p, p.hold, p.end.Seq, func(int) {}); err != nil {
			return nil, err
		}
	}
	return c.plans(ctx, func(p *part) replay.Choice {
		ch := replay.Choice{To: p.to}
		if p.at == 0 {
			ch.Digest = p.digest // of a log with nothing in it
		}
		return ch
	})
}

func (c *clone) put(ctx context.Context, name string, text []byte) error {
	_, err := c.log.Put(ctx, name, bytes.NewReader(text), bucket.PutOptions{IfAbsent: true})
	return err
}

// copy copies batches from first to last, both inclusive, verified as they are read.
func (c *clone) copy(ctx context.Context, p *part, first, last tidegate.Seq, copied func(n int)) error {
	if first > last {
		return nil
	}
	var piece []byte
	seg := archive.Segment{First: first}
	for b, err := range p.src.Batches(ctx, first) {
		if err != nil {
			return fmt.Errorf("copy log of %s/%s: %w", p.src.Info.Service, p.src.Info.Name, err)
		}
		piece = append(piece, b.Sealed...)
		seg.Last, seg.Epoch, seg.Chain = b.Seq, b.Epoch, b.Chain
		copied(len(b.Sealed))
		if len(piece) >= pieceBytes || b.Seq == last {
			if err := c.put(ctx, seg.Name(p.src.Info.Stream), piece); err != nil {
				return err
			}
			piece, seg = piece[:0], archive.Segment{First: b.Seq + 1}
		}
		if b.Seq == last {
			return nil
		}
	}
	return fmt.Errorf("copy log of %s/%s: it ends before batch %d: %w", p.src.Info.Service, p.src.Info.Name, uint64(last), tidegate.ErrGap)
}

// plans plans out of the sandbox's own copy.
func (c *clone) plans(ctx context.Context, choice func(*part) replay.Choice) ([]*replay.Plan, error) {
	r, err := archive.OpenReader(ctx, c.log)
	if err != nil {
		return nil, err
	}
	var all []*replay.Plan
	for _, p := range c.parts {
		s, err := r.Open(ctx, p.src.Info)
		if err != nil {
			return nil, err
		}
		ch := choice(p)
		ch.Base, ch.Beginning = p.base, p.base == ""
		if p.at > 0 {
			ch.Marks = []replay.Mark{{Position: p.at, Digest: p.digest, From: "the live standby's service"}}
		}
		if p.plan, err = replay.Make(ctx, s, p.bases, ch); err != nil {
			return nil, fmt.Errorf("%s/%s: %w", p.src.Info.Service, p.src.Info.Name, err)
		}
		all = append(all, p.plan)
	}
	return all, nil
}

func (c *clone) streams() (names []tidegate.StreamName) {
	for _, p := range c.parts {
		names = append(names, p.src.Info.Name)
	}
	return names
}

// firsts are where the logs begin that the streams' services are fed.
func (c *clone) firsts() map[tidegate.StreamName]tidegate.Position {
	all := map[tidegate.StreamName]tidegate.Position{}
	for _, p := range c.parts {
		if p.plan != nil {
			all[p.src.Info.Name] = p.plan.First
		}
	}
	return all
}

// backlog is what is left for t0, of all streams together.
func (c *clone) backlog() (records, size *int64) {
	records, size = new(int64), new(int64)
	for _, p := range c.parts {
		*records += int64(p.records) //nolint:gosec // of one log
		*size += int64(p.bytes)      //nolint:gosec // of one log
	}
	return records, size
}

// isFull reports whether an error says that there was no room.
func isFull(err error) bool {
	return errors.Is(err, tidegate.ErrFull) || errors.Is(err, vfs.ErrNoSpace)
}

// plansNow are those that were made last.
func (c *clone) plansNow() (all []*replay.Plan) {
	for _, p := range c.parts {
		all = append(all, p.plan)
	}
	return all
}
