package capture

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/stores"
	"github.com/tidegate/tidegate/stores/postgres/replication"
)

var _ stores.Renewable = (*Capture)(nil)

// renewal is how far the connector has come with giving up what it was to continue.
type renewal uint8

const (
	renewalNone    renewal = iota
	renewalOrdered         // the next look begins it
	renewalBegun           // all that was known is forgotten; over when log is received
)

// Lost implements [stores.Renewable]. Log that does not parse is taken for log that
// is not the one that was shipped: nobody can tell what comes behind it.
func (c *Capture) Lost() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, err := range []error{c.gaveUp, c.finding} {
		switch {
		case errors.Is(err, ErrGeneration), errors.Is(err, tidegate.ErrDiverged):
			return err
		case tidegate.ClassOf(err) == tidegate.Corrupt:
			return fmt.Errorf("%w: %w", err, tidegate.ErrDiverged)
		}
	}
	return nil
}

// Renew implements [stores.Renewable].
func (c *Capture) Renew() {
	c.mu.Lock()
	c.renewal = renewalOrdered
	l := c.link
	c.mu.Unlock()
	c.log.Warn("the log is given up, a new generation begins")
	if l != nil {
		_ = l.stream.Close() // the receiver reports it, and comes again
	}
}

// renewing reports whether a renewal is not over; mu is held.
func (c *Capture) renewing() bool { return c.renewal != renewalNone }

// beginAnew forgets all that was known of the server, if that was ordered: it may be
// another one, or the same at another time. The operator's slot policy has had its
// effect by now. What a former epoch's fence said was of a log that is given up.
func (c *Capture) beginAnew() error {
	c.mu.Lock()
	ordered := c.renewal == renewalOrdered
	c.mu.Unlock()
	if !ordered {
		return nil
	}
	if err := c.unremember(); err != nil {
		return err
	}
	c.forget()
	c.dropSpare()
	c.mu.Lock()
	defer c.mu.Unlock()
	if by := c.gate.FencedBy; by != 0 && c.gate.Unfence(by) {
		c.outlived = by
	}
	c.gate.Unhold(c.clock.Boot(), false) // what the agent has said was of the old log
	if errors.Is(c.gaveUp, errSlotDropped) || errors.Is(c.gaveUp, errMemory) {
		c.gaveUp = nil
	}
	c.place, c.finding, c.renewal = place{}, nil, renewalBegun
	c.shout()
	return nil
}

// letGo reports whether a slot is of no use to anybody, and may be made anew.
func (c *Capture) letGo(s replication.Slot) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.renewal == renewalBegun && errors.Is(s.Check(), replication.ErrSlotLost)
}

// memory is what outlives the process: that the slot was given up.
type memory struct {
	Version int       `json:"version"` // memoryVersion
	Slot    string    `json:"slot"`
	Why     string    `json:"why"`
	At      time.Time `json:"at"`
}

const memoryVersion = 1

// slotGivenUp is why nothing is streamed after the operator's policy gave the slot up.
func (c *Capture) slotGivenUp(why string) error {
	return &tidegate.Error{
		Op: "keep log in slot", Subject: c.cfg.Slot, Class: tidegate.Permanent,
		Err:  fmt.Errorf("%w: %w: %s", ErrGeneration, errSlotDropped, why),
		Hint: "bring the other site or the link back, make room, and begin a new generation: " + stores.AcceptGapCommand(c.cfg.Service, c.cfg.Stream),
	}
}

// remember writes down that the slot is given up, before it is: an agent that is
// started again must not make it anew, to fill the disk once more.
func (c *Capture) remember(why string) error {
	if c.cfg.Memory == "" {
		return nil
	}
	raw, err := json.MarshalIndent(memory{memoryVersion, c.cfg.Slot, why, c.clock.Wall().UTC()}, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(c.cfg.FS, filepath.Dir(c.cfg.Memory)); err != nil {
		return err
	}
	if err := c.unremember(); err != nil {
		return err
	}
	return durable.WriteFile(c.cfg.FS, c.cfg.Memory, raw)
}

// errMemory is why nothing is streamed while nobody can tell whether the slot was given
// up. Nor is it dropped: a file that cannot be read is no reason to let go of log.
var errMemory = errors.New("what was written down of the slot cannot be read")

// recall takes in what an earlier run has written down.
func (c *Capture) recall() {
	if c.cfg.Memory == "" {
		return
	}
	why, err := c.recalled()
	if errors.Is(err, tidegate.ErrNotFound) {
		return
	}
	given := c.slotGivenUp(why)
	if err != nil {
		given = &tidegate.Error{
			Op: "recall slot", Subject: c.cfg.Slot, Class: tidegate.Permanent,
			Err:  fmt.Errorf("%w, nothing is streamed and nothing dropped: %s", errMemory, err.Error()), // its class would say that the log is bad
			Hint: "make " + c.cfg.Memory + " readable, or remove it if the slot is to be kept; then start the agent again",
		}
	}
	c.mu.Lock()
	c.gaveUp = given
	c.mu.Unlock()
}

func (c *Capture) recalled() (why string, err error) {
	f, err := c.cfg.FS.Open(c.cfg.Memory)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	raw, err := io.ReadAll(f)
	if err != nil {
		return "", err
	}
	var m memory
	if err := json.Unmarshal(raw, &m); err != nil {
		return "", &tidegate.CorruptError{Path: c.cfg.Memory, Offset: -1, What: err.Error()}
	}
	if m.Version != memoryVersion {
		return "", fmt.Errorf("read %s: version %d: %w", c.cfg.Memory, m.Version, tidegate.ErrUnsupported)
	}
	if m.Slot != c.cfg.Slot {
		return "", fmt.Errorf("of slot %s: %w", m.Slot, tidegate.ErrNotFound)
	}
	return m.Why + ", at " + m.At.Format(time.RFC3339), nil
}

// unremember takes it back.
func (c *Capture) unremember() error {
	if c.cfg.Memory == "" {
		return nil
	}
	err := c.cfg.FS.Remove(c.cfg.Memory)
	if errors.Is(err, tidegate.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("forget that the slot was given up: %w", err)
	}
	return c.cfg.FS.SyncDir(filepath.Dir(c.cfg.Memory))
}
