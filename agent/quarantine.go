package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores"
)

// The files of a bundle.
const (
	tailFile    = "tail.journal"
	summaryFile = "summary.json"
)

const bundleVersion = 1

// Bundle describes what is kept in a quarantine directory: the part of this
// node's log that the stream went on without.
type Bundle struct {
	Version      int                  `json:"version"` // bundleVersion
	ID           tidegate.ID          `json:"id"`      // the same however often it is reported
	Node         tidegate.NodeName    `json:"node"`
	Service      tidegate.ServiceName `json:"service"`
	Stream       tidegate.StreamName  `json:"stream"`
	StreamID     tidegate.StreamID    `json:"stream_id"`
	WrittenEpoch tidegate.Epoch       `json:"written_epoch"` // 0 when not known
	CutEpoch     tidegate.Epoch       `json:"cut_epoch"`     // the epoch that goes on without these records
	First        tidegate.Position    `json:"first"`
	Next         tidegate.Position    `json:"next"` // exclusive
	Records      int64                `json:"records"`
	Bytes        int64                `json:"bytes"`
	OldestTime   time.Time            `json:"oldest_time,omitzero"` // source times
	NewestTime   time.Time            `json:"newest_time,omitzero"`
	// Of the records, those whose outputs had been let go.
	ReleasedKnown   bool      `json:"released_known"`
	ReleasedRecords int64     `json:"released_records"`
	ReleasedBytes   int64     `json:"released_bytes"`
	ReleasedNewest  time.Time `json:"released_newest,omitzero"` // source time; zero if none was
	Reason          string    `json:"reason"`
	Path            string    `json:"path,omitempty"` // empty when there was nothing to keep
}

// quarantine keeps a copy of this node's log from h.First on and reports it to
// the gate. Nothing is removed from the journal. Doing it again changes nothing.
func (s *stream) quarantine(ctx context.Context, h batch.Header) error {
	s.mu.Lock()
	b := Bundle{
		Version: bundleVersion, Node: s.agent.cfg.Node.Name, Service: s.cfg.Service, Stream: s.cfg.Stream, StreamID: h.Stream,
		CutEpoch: h.Epoch, First: h.First, Next: max(h.First, s.lib.head()), Reason: fence.ReasonDiverged,
	}
	released := s.lib.progress.A
	b.ReleasedKnown = s.lib.known && s.lib.progress.AKnown
	if s.fenced != nil {
		b.WrittenEpoch = s.fenced.epoch
		if !b.ReleasedKnown {
			released, b.ReleasedKnown = s.fenced.released, s.fenced.known
		}
	}
	s.mu.Unlock()
	b.ID = bundleID(b)
	kept, err := s.keep(ctx, b, released.Position)
	if err != nil {
		return err
	}
	s.log.Warn("tail kept in quarantine", "path", kept.Path, "records", kept.Records, "released", kept.ReleasedRecords, "released_known", kept.ReleasedKnown)
	return s.report(ctx, kept)
}

// bundleID names a bundle by what it is about, so that every report of the same
// tail is one report, the standby node's included.
func bundleID(b Bundle) tidegate.ID { return stores.TailID(b.StreamID, b.CutEpoch, b.First) }

// keep copies [b.First, b.Next) into a directory of its own and returns the
// completed description. A bundle that an earlier run has finished is returned
// as it is.
func (s *stream) keep(ctx context.Context, b Bundle, released tidegate.Position) (Bundle, error) {
	fs := s.agent.fs
	root := filepath.Join(s.agent.cfg.DataDir, "quarantine", b.StreamID.String())
	if err := durable.MkdirAll(fs, root); err != nil {
		return b, err
	}
	names, err := fs.List(root)
	if err != nil {
		return b, err
	}
	prefix := fmt.Sprintf("%s-%s-", b.CutEpoch, b.First)
	for _, name := range names {
		if strings.HasPrefix(name, prefix) && !strings.HasSuffix(name, ".partial") {
			return readBundle(fs, filepath.Join(root, name))
		}
	}
	if b.Next <= b.First {
		return b, nil
	}
	final := filepath.Join(root, fmt.Sprintf("%s%s-%s", prefix, b.Next, b.Reason))
	temp := final + ".partial"
	if err := s.fill(ctx, fs, temp, &b, released); err != nil {
		return b, fmt.Errorf("keep tail in %s: %w", temp, err)
	}
	b.Path = final
	text, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return b, err
	}
	if err := durable.WriteFile(fs, filepath.Join(temp, summaryFile), text); err != nil {
		return b, err
	}
	if err := fs.Rename(temp, final); err != nil {
		return b, err
	}
	return b, fs.SyncDir(root)
}

// fill copies the tail and counts it, the released part first.
func (s *stream) fill(ctx context.Context, fs vfs.FS, dir string, b *Bundle, released tidegate.Position) (err error) {
	if err := durable.MkdirAll(fs, dir); err != nil {
		return err
	}
	path := filepath.Join(dir, tailFile)
	// What an interrupted copy left behind is an incomplete copy of bytes that
	// are still in the journal.
	if err := fs.Remove(path); err != nil && !errors.Is(err, tidegate.ErrNotFound) {
		return err
	}
	f, err := fs.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	c, err := s.source.Follow(ctx, b.First)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for _, limit := range []tidegate.Position{min(max(released, b.First), b.Next), b.Next} {
		for {
			u, err := c.Read(limit, int(s.agent.cfg.Limits.BatchBytesMax))
			if err != nil {
				return err
			}
			if len(u.Payload) == 0 {
				break
			}
			if _, err := f.Write(u.Payload); err != nil {
				return err
			}
			b.count(time.Unix(0, u.Oldest).UTC(), time.Unix(0, u.Newest).UTC(), int64(u.Records), int64(len(u.Payload)))
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		if limit < b.Next || released >= b.Next {
			b.ReleasedRecords, b.ReleasedBytes, b.ReleasedNewest = b.Records, b.Bytes, b.NewestTime
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return fs.SyncDir(dir)
}

func (b *Bundle) count(oldest, newest time.Time, records, bytes int64) {
	if records > 0 && (b.Records == 0 || oldest.Before(b.OldestTime)) {
		b.OldestTime = oldest
	}
	if records > 0 && (b.Records == 0 || newest.After(b.NewestTime)) {
		b.NewestTime = newest
	}
	b.Records += records
	b.Bytes += bytes
}

func readBundle(fs vfs.FS, dir string) (b Bundle, err error) {
	f, err := fs.Open(filepath.Join(dir, summaryFile))
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	text, err := io.ReadAll(f)
	if err != nil {
		return b, err
	}
	if err := json.Unmarshal(text, &b); err != nil {
		return b, &tidegate.CorruptError{Path: filepath.Join(dir, summaryFile), Offset: -1, What: err.Error()}
	}
	if b.Version != bundleVersion {
		return b, &tidegate.Error{
			Op: "read bundle", Subject: dir, Class: tidegate.Permanent,
			Hint: "another version of the agent has kept it; run that one, or move the directory away",
			Err:  fmt.Errorf("version %d: %w", b.Version, tidegate.ErrUnsupported),
		}
	}
	return b, nil
}

// report tells the gate what was left behind.
func (s *stream) report(ctx context.Context, b Bundle) error {
	req := &pb.ReportQuarantineRequest{
		Id: b.ID.String(), Node: string(b.Node), StreamId: api.IDText(b.StreamID),
		WrittenEpoch: uint64(b.WrittenEpoch), CutEpoch: uint64(b.CutEpoch),
		FirstPosition: uint64(b.First), NextPosition: uint64(b.Next), Records: b.Records, Bytes: b.Bytes,
		Reason: b.Reason, Path: b.Path,
	}
	if b.ReleasedKnown {
		req.ReleasedRecords = &b.ReleasedRecords
		if !b.ReleasedNewest.IsZero() {
			req.ReleasedNewest = timestamppb.New(b.ReleasedNewest)
		}
	}
	if b.Records > 0 {
		req.Oldest, req.Newest = timestamppb.New(b.OldestTime), timestamppb.New(b.NewestTime)
	}
	_, err := call(ctx, s.agent.gate, "report quarantine", callTimeout, req,
		func(c tidegatev1connect.NodeServiceClient, ctx context.Context, r *connect.Request[pb.ReportQuarantineRequest]) (*connect.Response[pb.ReportQuarantineResponse], error) {
			return c.ReportQuarantine(ctx, r)
		})
	return err
}
