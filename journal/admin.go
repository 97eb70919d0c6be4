package journal

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/quarantine"
	"github.com/tidegate/tidegate/internal/seglog"
)

// addBranch writes b into the meta file, before its record.
func (j *Journal) addBranch(b Branch) error {
	j.naming.Lock()
	defer j.naming.Unlock()
	j.mu.Lock()
	m := j.meta.with(b)
	known := len(m.Branches) == len(j.meta.Branches)
	j.mu.Unlock()
	if known {
		return nil
	}
	if err := m.write(j.fs, j.dir); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.meta = m
	return nil
}

// Branch appends the record by which epoch's history forks off at position at,
// the journal's end, makes it durable and extends the lineage. Again with the
// same arguments it does nothing. tidegate.ErrConflict if the journal ends
// elsewhere. Called by Run at a promotion.
func (j *Journal) Branch(ctx context.Context, epoch tidegate.Epoch, at tidegate.Position) (Range, error) {
	b := Branch{Epoch: epoch, Position: at}
	r := Range{First: at, Next: at + HeaderSize + branchPayloadSize}
	j.mu.Lock()
	done := j.meta.has(b) && j.end.Position >= r.Next
	end := j.end.Position
	j.mu.Unlock()
	if done {
		return r, j.WaitDurable(ctx, r.Next)
	}
	if end != at {
		return Range{}, fmt.Errorf("branch epoch %s at %s: journal ends at %s: %w", epoch, at, end, tidegate.ErrConflict)
	}
	if err := errors.Join(j.own(), j.addBranch(b)); err != nil {
		return Range{}, fmt.Errorf("branch epoch %s at %s: %w", epoch, at, err)
	}
	if err := j.putBranch(ctx, b); err != nil {
		return Range{}, err
	}
	return r, j.WaitDurable(ctx, r.Next)
}

func (j *Journal) putBranch(ctx context.Context, b Branch) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.reserve(ctx, HeaderSize+branchPayloadSize); err != nil {
		return err
	}
	if j.end.Position != b.Position {
		return fmt.Errorf("branch epoch %s at %s: another append came first: %w", b.Epoch, b.Position, tidegate.ErrConflict)
	}
	j.put(KindBranch, b.payload(), j.cfg.Clock.Wall())
	j.queued()
	return nil
}

// own makes a drawn id final, before this journal writes under it.
func (j *Journal) own() error {
	if !j.drawn.Load() {
		return nil
	}
	return j.rename(func(m *meta) {})
}

// rename changes a drawn id, or nothing but that it is drawn.
func (j *Journal) rename(change func(*meta)) error {
	j.naming.Lock()
	defer j.naming.Unlock()
	if !j.drawn.Load() {
		return nil
	}
	j.mu.Lock()
	m := j.meta
	j.mu.Unlock()
	m.Drawn = false
	change(&m)
	if err := m.write(j.fs, j.dir); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.meta = m
	j.drawn.Store(false)
	return nil
}

// adopt gives a journal whose id was drawn, and that has only followed since,
// the id of the history it follows. Any other must have that id already.
func (j *Journal) adopt(l tidegate.Lineage) error {
	if l == "" || l == j.Lineage() {
		return nil
	}
	id, err := LineageID(l)
	if err != nil {
		return err
	}
	if err := j.rename(func(m *meta) { m.ID = id }); err != nil {
		return err
	}
	j.mu.Lock()
	have := j.meta.ID
	j.mu.Unlock()
	if have != id {
		return &tidegate.Error{
			Op: "follow", Subject: "journal:" + id.String(), Class: tidegate.Permanent, Err: tidegate.ErrDiverged,
			Hint: fmt.Sprintf("the journal in %s is of history %s", j.dir, have),
		}
	}
	return nil
}

// Cut says what CutTo moved aside.
type Cut struct {
	Range

	Records    uint64
	OldestTime time.Time
	NewestTime time.Time
	Path       string // directory of the quarantined bytes; empty if nothing was cut
}

// CutTo ends the journal at position at, which must be a record's beginning or
// the end, after everything from there on is safe in a directory below
// quarantineDir (default: quarantine in the journal's directory), with a JSON
// summary. Refused while the service is active. Readers must be opened anew.
func (j *Journal) CutTo(ctx context.Context, at tidegate.Position, quarantineDir, reason string) (Cut, error) {
	if quarantineDir == "" {
		quarantineDir = filepath.Join(j.dir, quarantineName)
	}
	var cut Cut
	err := j.alone(ctx, func() (err error) {
		cut, err = j.cut(at, quarantineDir, reason)
		return err
	})
	if err != nil {
		return Cut{}, fmt.Errorf("cut journal at %s: %w", at, err)
	}
	return cut, nil
}

func (j *Journal) cut(at tidegate.Position, quarantineDir, reason string) (Cut, error) {
	if j.gate.active() {
		return Cut{}, &tidegate.Error{Op: "cut", Class: tidegate.Misuse, Err: fmt.Errorf("the service is active: %w", tidegate.ErrConflict)}
	}
	if end := j.End(); at >= end {
		return Cut{Range: Range{First: end, Next: end}}, nil
	}
	c, err := j.measure(at)
	if err != nil {
		return Cut{}, err
	}
	size := int64(c.Next - c.First) //nolint:gosec // bytes of one journal
	summary, err := quarantine.Summary{
		Kind: quarantine.KindJournalTail, Stream: j.cfg.Stream, Reason: reason, Created: j.cfg.Clock.Wall().UTC(),
		Positions: &quarantine.Positions{First: c.First, Next: c.Next}, Records: quarantine.Count(c.Records), Bytes: &size,
		Oldest: c.OldestTime, Newest: c.NewestTime, Note: "journal " + string(j.Lineage()),
	}.Encode()
	if err != nil {
		return Cut{}, err
	}
	if err := j.compare.close(); err != nil {
		return Cut{}, err
	}
	// A state of what goes must not be taken for one of what comes there.
	if err := j.states().forget(at); err != nil {
		return Cut{}, err
	}
	moved, err := j.log.CutTo(uint64(at), filepath.Join(quarantineDir, fmt.Sprintf("%s-%s", c.First, c.Next)), reason,
		seglog.Attachment{Name: quarantine.SummaryName, Data: summary})
	if err != nil {
		return Cut{}, err
	}
	c.Path = moved.Dir
	j.mu.Lock()
	defer j.mu.Unlock()
	j.setEnd()
	j.gate.rewind(j.end)
	kept := j.meta
	for n := len(kept.Branches); n > 0 && kept.Branches[n-1].Position >= at; n-- {
		kept.Branches = kept.Branches[:n-1]
	}
	j.meta = kept
	return c, kept.write(j.fs, j.dir)
}

// measure reads what would be cut.
func (j *Journal) measure(at tidegate.Position) (Cut, error) {
	r, err := j.NewReader(at)
	if err != nil {
		return Cut{}, err
	}
	defer func() { _ = r.Close() }() // only read
	c := Cut{Range: Range{First: at, Next: at}}
	for {
		rec, ok, err := r.TryNext()
		if err != nil || !ok {
			return c, err
		}
		c.Next = rec.Next
		c.Records++
		if c.OldestTime.IsZero() || rec.Time.Before(c.OldestTime) {
			c.OldestTime = rec.Time
		}
		if rec.Time.After(c.NewestTime) {
			c.NewestTime = rec.Time
		}
	}
}

// TrimBefore removes whole segments that end at or before p. The caller knows
// that nobody needs them: not the agent, and not the service's own replay.
func (j *Journal) TrimBefore(ctx context.Context, p tidegate.Position) error {
	err := j.alone(ctx, func() error { return j.log.TrimBefore(uint64(p)) })
	if err != nil {
		return fmt.Errorf("trim journal before %s: %w", p, err)
	}
	return nil
}

// alone runs f while everything appended is durable and the committer stands still.
func (j *Journal) alone(ctx context.Context, f func() error) error {
	j.mu.Lock()
	if j.frozen {
		j.mu.Unlock()
		return fmt.Errorf("another cut or trim is at work: %w", tidegate.ErrConflict)
	}
	j.frozen = true
	end := j.end.Position
	j.mu.Unlock()
	defer func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.frozen = false
		j.room.wake(noPosition, nil)
	}()
	if err := j.WaitDurable(ctx, end); err != nil {
		return err
	}
	j.mu.Lock()
	for j.busy && j.err == nil {
		j.idle.Wait()
	}
	err := j.err
	j.mu.Unlock()
	if err != nil {
		return err
	}
	return f()
}
