package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/quarantine"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores"
)

// tailFile is the copy in a bundle.
const tailFile = "tail.journal"

// kept is a part of this node's log that the stream went on without, as it is
// reported: what its bundle says, and where that lies.
type kept struct {
	quarantine.Summary

	path string // empty when there was nothing to keep
}

// quarantine keeps a copy of this node's log from h.First on and reports it to
// the gate. Nothing is removed from the journal. Doing it again changes nothing.
func (s *stream) quarantine(ctx context.Context, h batch.Header) error {
	s.mu.Lock()
	b := quarantine.Summary{
		Kind: quarantine.KindSourceTail, Node: s.agent.cfg.Node.Name, Service: s.cfg.Service, Stream: s.cfg.Stream, StreamID: h.Stream,
		CutEpoch: h.Epoch, Positions: &quarantine.Positions{First: h.First, Next: max(h.First, s.lib.head())}, Reason: fence.ReasonDiverged,
		Created: s.agent.clk.Wall().UTC(),
	}
	released := s.lib.progress.A.Position
	known := s.lib.known && s.lib.progress.AKnown
	if s.fenced != nil {
		if s.fenced.epoch != 0 {
			b.WrittenEpochs = []tidegate.Epoch{s.fenced.epoch}
		}
		if !known {
			released, known = s.fenced.released.Position, s.fenced.known
		}
	}
	s.mu.Unlock()
	// It is named by what it is about, so that every report of the same tail is one
	// report, the standby node's included.
	b.ID = stores.TailID(b.StreamID, b.CutEpoch, b.Positions.First)
	k, err := s.keep(ctx, b, released, known)
	if err != nil {
		return err
	}
	var let int64
	if k.Released != nil {
		let = k.Released.Records
	}
	s.log.Warn("tail kept in quarantine", "path", k.path, "records", *k.Records, "released", let, "released_known", k.Released != nil)
	return s.report(ctx, k)
}

// keep copies the positions of b into a directory of their own and returns the
// completed description. A bundle that an earlier run has finished is returned
// as it is.
func (s *stream) keep(ctx context.Context, b quarantine.Summary, released tidegate.Position, known bool) (kept, error) {
	fs, at := s.agent.fs, *b.Positions
	root := filepath.Join(s.agent.cfg.DataDir, quarantine.DirName, b.StreamID.String())
	if err := durable.MkdirAll(fs, root); err != nil {
		return kept{}, err
	}
	names, err := fs.List(root)
	if err != nil {
		return kept{}, err
	}
	prefix := fmt.Sprintf("%s-%s-", b.CutEpoch, at.First)
	for _, name := range names {
		if strings.HasPrefix(name, prefix) && !strings.HasSuffix(name, quarantine.PartialSuffix) {
			return readBundle(fs, filepath.Join(root, name))
		}
	}
	var t tail
	if at.Next > at.First {
		final := filepath.Join(root, fmt.Sprintf("%s%s-%s", prefix, at.Next, b.Reason))
		temp := final + quarantine.PartialSuffix
		if t, err = s.fill(ctx, fs, temp, at, released); err != nil {
			return kept{}, fmt.Errorf("keep tail in %s: %w", temp, err)
		}
		b.Files = []quarantine.File{{Name: tailFile, Bytes: t.bytes}}
		t.describe(&b, known)
		if err := quarantine.Write(fs, temp, b); err != nil {
			return kept{}, err
		}
		if err := fs.Rename(temp, final); err != nil {
			return kept{}, err
		}
		return kept{b, final}, fs.SyncDir(root)
	}
	t.describe(&b, known)
	return kept{Summary: b}, nil
}

// tail is what was counted of one.
type tail struct {
	records, bytes int64
	oldest, newest time.Time // source times; zero without records
	released       quarantine.Released
}

// fill copies the tail and counts it, the released part first.
func (s *stream) fill(ctx context.Context, fs vfs.FS, dir string, at quarantine.Positions, released tidegate.Position) (t tail, err error) {
	if err := durable.MkdirAll(fs, dir); err != nil {
		return t, err
	}
	path := filepath.Join(dir, tailFile)
	// What an interrupted copy left behind is an incomplete copy of bytes that
	// are still in the journal.
	if err := fs.Remove(path); err != nil && !errors.Is(err, tidegate.ErrNotFound) {
		return t, err
	}
	f, err := fs.Create(path)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	c, err := s.source.Follow(ctx, at.First)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for _, limit := range []tidegate.Position{min(max(released, at.First), at.Next), at.Next} {
		for {
			u, err := c.Read(limit, int(s.agent.cfg.Limits.BatchBytesMax))
			if err != nil {
				return t, err
			}
			if len(u.Payload) == 0 {
				break
			}
			if _, err := f.Write(u.Payload); err != nil {
				return t, err
			}
			t.count(time.Unix(0, u.Oldest).UTC(), time.Unix(0, u.Newest).UTC(), int64(u.Records), int64(len(u.Payload)))
			if err := ctx.Err(); err != nil {
				return t, err
			}
		}
		if limit < at.Next || released >= at.Next {
			t.released = quarantine.Released{Records: t.records, Bytes: t.bytes, Newest: t.newest}
		}
	}
	if err := f.Sync(); err != nil {
		return t, err
	}
	return t, fs.SyncDir(dir)
}

func (t *tail) count(oldest, newest time.Time, records, bytes int64) {
	if records > 0 && (t.records == 0 || oldest.Before(t.oldest)) {
		t.oldest = oldest
	}
	if records > 0 && (t.records == 0 || newest.After(t.newest)) {
		t.newest = newest
	}
	t.records += records
	t.bytes += bytes
}

// describe puts what was counted into b.
func (t *tail) describe(b *quarantine.Summary, releasedKnown bool) {
	b.Records, b.Bytes, b.Oldest, b.Newest = &t.records, &t.bytes, t.oldest, t.newest
	if releasedKnown {
		b.Released = &t.released
	}
}

// readBundle reads what an earlier run has kept. A summary that lacks what this
// package writes is not its own.
func readBundle(fs vfs.FS, dir string) (kept, error) {
	b, err := quarantine.Read(fs, dir)
	if err != nil {
		return kept{}, err
	}
	if b.Kind != quarantine.KindSourceTail || b.Positions == nil || b.Records == nil || b.Bytes == nil {
		return kept{}, &tidegate.CorruptError{Path: filepath.Join(dir, quarantine.SummaryName), Offset: -1, What: "it is not of an agent's tail"}
	}
	return kept{b, dir}, nil
}

// report tells the gate what was left behind.
func (s *stream) report(ctx context.Context, k kept) error {
	req := &pb.ReportQuarantineRequest{
		Id: k.ID.String(), Node: string(k.Node), StreamId: api.IDText(k.StreamID), CutEpoch: uint64(k.CutEpoch),
		FirstPosition: uint64(k.Positions.First), NextPosition: uint64(k.Positions.Next), Records: *k.Records, Bytes: *k.Bytes,
		Reason: k.Reason, Path: k.path,
	}
	if len(k.WrittenEpochs) > 0 {
		req.WrittenEpoch = uint64(k.WrittenEpochs[0])
	}
	if k.Released != nil {
		req.ReleasedRecords = &k.Released.Records
		if !k.Released.Newest.IsZero() {
			req.ReleasedNewest = timestamppb.New(k.Released.Newest)
		}
	}
	if *k.Records > 0 {
		req.Oldest, req.Newest = timestamppb.New(k.Oldest), timestamppb.New(k.Newest)
	}
	_, err := call(ctx, s.agent.gate, "report quarantine", callTimeout, req,
		func(c tidegatev1connect.NodeServiceClient, ctx context.Context, r *connect.Request[pb.ReportQuarantineRequest]) (*connect.Response[pb.ReportQuarantineResponse], error) {
			return c.ReportQuarantine(ctx, r)
		})
	return err
}
