package standby

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/stores"
)

// Tail is what a library's journal held that the stream went on without. The
// library keeps the bytes in its quarantine; this is the account of them.
type Tail struct {
	Version      int               `json:"version"` // tailVersion
	ID           tidegate.ID       `json:"id"`      // stores.TailID
	Stream       tidegate.StreamID `json:"stream"`
	WrittenEpoch tidegate.Epoch    `json:"written_epoch"` // 0 when not known
	CutEpoch     tidegate.Epoch    `json:"cut_epoch"`     // the epoch that goes on without these records
	First        tidegate.Position `json:"first"`
	Next         tidegate.Position `json:"next"` // exclusive
	Records      int64             `json:"records"`
	Bytes        int64             `json:"bytes"`
	OldestTime   time.Time         `json:"oldest_time,omitzero"` // source times
	NewestTime   time.Time         `json:"newest_time,omitzero"`
	// Of the records, those whose outputs had been let go.
	ReleasedKnown   bool      `json:"released_known"`
	ReleasedRecords int64     `json:"released_records"`
	ReleasedNewest  time.Time `json:"released_newest,omitzero"` // source time; zero if none was
	Reason          string    `json:"reason"`
	Path            string    `json:"path"`     // below which the library keeps them
	Reported        bool      `json:"reported"` // the gate has it
}

const (
	tailVersion    = 1
	tailFilePrefix = "tail-"
	// measureBytes is how much of a journal is read at a time.
	measureBytes = 1 << 20
)

// measure reads what the library is about to leave behind.
func (l *library) measure(ctx context.Context, j journalState, p parting) (t Tail, err error) {
	s := l.s
	t = Tail{
		Version: tailVersion, ID: stores.TailID(s.id, p.epoch, p.to), Stream: s.id, CutEpoch: p.epoch,
		First: p.to, Next: j.end, Reason: fence.ReasonDiverged, Path: filepath.Join(l.hello.Dir, "quarantine"),
	}
	s.mu.Lock()
	released := l.progress.A.Position
	t.ReleasedKnown = l.progress.AKnown
	for _, term := range s.core.Meta().History {
		if term.Epoch < p.epoch {
			t.WrittenEpoch = term.Epoch
		}
	}
	s.mu.Unlock()
	c, err := l.captured().Follow(ctx, p.to)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for _, limit := range []tidegate.Position{min(max(released, p.to), j.end), j.end} {
		for {
			u, err := c.Read(limit, measureBytes)
			if err != nil || ctx.Err() != nil {
				return t, errors.Join(err, ctx.Err())
			}
			if u.Records == 0 {
				break
			}
			t.add(&u)
		}
		if t.ReleasedKnown && (limit < j.end || released >= j.end) {
			t.ReleasedRecords, t.ReleasedNewest = t.Records, t.NewestTime
		}
	}
	if t.Bytes != int64(j.end-p.to) {
		return t, fmt.Errorf("journal %s has %d bytes of whole records in [%s, %s)", l.hello.Dir, t.Bytes, p.to, j.end)
	}
	return t, nil
}

// Leave takes the account of what a service had that the stream went on without,
// from a connector that has kept it: of First, Next, Records, Bytes, times, what was
// released and Path; the rest is filled in. It is written down, and reported until
// the gate has it. Saying the same again changes nothing. An error wraps
// tidegate.ErrNotFound while the log here does not reach beyond First.
func (n *Standby) Leave(service tidegate.ServiceName, name tidegate.StreamName, t Tail) error {
	for _, s := range n.all() {
		s.mu.Lock()
		is := s.view.Service == service && s.view.Name == name && s.log != nil
		s.mu.Unlock()
		if is {
			return s.leave(t)
		}
	}
	return &tidegate.Error{Op: "keep account of a tail of", Subject: fmt.Sprintf("%s/%s", service, name), Class: tidegate.Transient, Err: tidegate.ErrNotFound}
}

func (s *stream) leave(t Tail) error {
	s.mu.Lock()
	upTo := s.core.ApplyTo()
	terms := s.core.Meta().History.Clone()
	s.mu.Unlock()
	_, last, err := s.log.At(upTo)
	if err != nil {
		return err
	}
	// The epoch is that of the batch which stands in its place, so that whoever else
	// finds the same tail names it alike.
	next, err := s.log.FindPosition(last.Generation, t.First)
	if err == nil && next > upTo {
		err = tidegate.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("find what goes on from %s: %w", t.First, err)
	}
	_, h, err := s.log.At(next)
	if err != nil {
		return err
	}
	t.Version, t.Stream, t.CutEpoch, t.Reason = tailVersion, s.id, h.Epoch, fence.ReasonDiverged
	t.ID = stores.TailID(s.id, t.CutEpoch, t.First)
	for _, term := range terms {
		if term.Epoch < t.CutEpoch {
			t.WrittenEpoch = term.Epoch
		}
	}
	switch _, err := s.n.deps.FS.Stat(s.tailPath(t)); {
	case err == nil:
		return nil
	case !errors.Is(err, tidegate.ErrNotFound):
		return err
	}
	return s.keepTail(t)
}

func (t *Tail) add(u *stores.Unit) {
	oldest, newest := time.Unix(0, u.Oldest).UTC(), time.Unix(0, u.Newest).UTC()
	if t.Records == 0 || oldest.Before(t.OldestTime) {
		t.OldestTime = oldest
	}
	if t.Records == 0 || newest.After(t.NewestTime) {
		t.NewestTime = newest
	}
	t.Records += int64(u.Records)
	t.Bytes += int64(len(u.Payload))
}

func (s *stream) tailPath(t Tail) string {
	return filepath.Join(s.dir, tailFilePrefix+t.ID.String()+".json")
}

func (s *stream) writeTail(t Tail) error {
	b, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(s.n.deps.FS, s.tailPath(t), b)
}

// keepTail writes an account down and has it reported.
func (s *stream) keepTail(t Tail) error {
	if err := s.writeTail(t); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tails = append(s.tails, t)
	s.tailed.ring()
	return nil
}

// readTails returns the accounts in the stream's directory that the gate does not
// have yet.
func (s *stream) readTails() (due []Tail, err error) {
	names, err := s.n.deps.FS.List(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", s.dir, err)
	}
	for _, name := range names {
		if !strings.HasPrefix(name, tailFilePrefix) {
			continue
		}
		path := filepath.Join(s.dir, name)
		b, err := readFile(s.n.deps.FS, path)
		if err != nil {
			return nil, err
		}
		var t Tail
		if err := json.Unmarshal(b, &t); err != nil || t.Version != tailVersion {
			// It is an account of something that lies safe elsewhere.
			s.lg.Error("account of a tail cannot be read, and is not reported", "path", path, "version", t.Version, keyErr, err)
			continue
		}
		if !t.Reported {
			due = append(due, t)
		}
	}
	return due, nil
}

// reportTails tells the gate of every tail until it has been told, across
// restarts. A report that is repeated says the same under the same name.
func (s *stream) reportTails(ctx context.Context) {
	backoff := retry.Policy{First: 200 * time.Millisecond, Max: 10 * time.Second}.Backoff()
	for {
		s.mu.Lock()
		var t *Tail
		if len(s.tails) > 0 {
			t = &s.tails[0]
		}
		s.mu.Unlock()
		if t == nil {
			select {
			case <-ctx.Done():
				return
			case <-s.tailed:
			}
			continue
		}
		if err := s.n.deps.Directory.ReportTail(ctx, *t); err != nil {
			s.lg.Warn("report tail to the gate", keyErr, err)
			if backoff.Wait(ctx) != nil {
				return
			}
			continue
		}
		backoff.Reset()
		done := *t
		done.Reported = true
		if err := s.writeTail(done); err != nil {
			s.lg.Warn("note that a tail was reported", keyErr, err) // it is reported again after the next start
		}
		s.mu.Lock()
		s.tails = s.tails[1:]
		s.mu.Unlock()
	}
}
