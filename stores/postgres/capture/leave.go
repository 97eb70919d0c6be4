package capture

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/stores"
	"github.com/tidegate/tidegate/stores/postgres/replication"
)

var (
	_ stores.Keeper = (*Capture)(nil)
	_ stores.Finder = (*Capture)(nil)
)

// wanted is what the agent has said of the stream.
type wish uint8

const (
	wishUnknown wish = iota
	wishStay         // it is registered: a slot may be made
	wishLeave        // it is about to be removed
)

var (
	// errLeft is why nothing is streamed of a stream that was removed.
	errLeft = errors.New("the stream is being removed: its slot was dropped")
	// errUnregistered is why no slot is made: nobody would take the log that it keeps.
	errUnregistered = &tidegate.Error{
		Op: "make replication slot", Class: tidegate.Transient, Err: errors.New("no gate has said yet that the stream is registered"),
		Hint: "register it with `tidegate streams add`, or take it out of the agent's file",
	}
)

// Wanted implements [stores.Keeper].
func (c *Capture) Wanted(yes bool) {
	now := wishLeave
	if yes {
		now = wishStay
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now == c.wish {
		return
	}
	c.wish = now
	if yes && errors.Is(c.gaveUp, errLeft) {
		c.gaveUp = nil
	}
	signal(c.inspect)
	signal(c.ask)
}

// Keeps implements [stores.Keeper].
func (c *Capture) Keeps() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != nil && c.link.ready && len(c.keeps) == 0 {
		return []string{c.slotText()} // the next look finds it
	}
	return slices.Clone(c.keeps)
}

func (c *Capture) slotText() string {
	return "a replication slot: SELECT pg_drop_replication_slot('" + c.cfg.Slot + "')"
}

// noteKept takes in what the server keeps for the stream.
func (c *Capture) noteKept(s *replication.Survey) {
	var kept []string
	if slices.ContainsFunc(s.Slots, func(one replication.SlotState) bool { return one.Name == c.cfg.Slot }) {
		kept = append(kept, c.slotText())
	}
	if c.isNamed(s.Settings[namesSetting]) {
		kept = append(kept, fmt.Sprintf("%s = '%s': take %s out of it and reload, or commits wait for ever", namesSetting, s.Settings[namesSetting], c.cfg.Name))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keeps = kept
}

// isNamed reports whether commits may wait for us by these names.
func (c *Capture) isNamed(names string) bool {
	return regexp.MustCompile(`(?i)(^|[^a-z0-9_])` + c.cfg.Name + `($|[^a-z0-9_])`).MatchString(names) // its letters need no quotes
}

// isLeaving reports whether the stream is about to be removed, and is not left yet.
func (c *Capture) isLeaving() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wish == wishLeave
}

// mayMake returns nil when a slot may be made.
func (c *Capture) mayMake() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.wish {
	case wishStay:
		return c.gaveUp
	case wishLeave:
		return errLeft
	case wishUnknown:
	}
	return errUnregistered
}

// leave lets go of what the server keeps for a stream that is removed: first the
// name, so that nobody waits for an answer that no longer comes, then the slot. It
// returns what somebody has to do first.
func (g *guard) leave(ctx context.Context, s *replication.Survey) []local.Finding {
	c := g.c
	names := s.Settings[namesSetting]
	var cause error
	if names == c.cfg.Name && c.naming.driver != nil && (!s.InRecovery || c.naming.local) {
		if cause = c.naming.driver.Set(ctx, g.sql, ""); cause == nil {
			set, err := g.sql.Settings(ctx, namesSetting)
			if names, cause = set[namesSetting], err; err == nil && c.isNamed(names) {
				signal(c.inspect) // it takes a moment
				return nil
			}
			s.Settings[namesSetting] = names
		}
	}
	if cause != nil || c.isNamed(names) {
		text := fmt.Sprintf("the stream is to be removed, and %s is '%s'", namesSetting, names)
		if cause != nil {
			text += ": " + cause.Error()
		}
		return []local.Finding{{
			Name: foundLeaving, Severity: local.SeverityWarning, Class: tidegate.Misuse, Text: text,
			Hint: "take " + c.cfg.Name + " out of it and reload; then the slot is dropped. Commits that it makes wait are answered until then",
		}}
	}
	if c.givenUp() != nil && !slices.ContainsFunc(s.Slots, func(one replication.SlotState) bool { return one.Name == c.cfg.Slot }) {
		return nil
	}
	if g.drop(ctx, &tidegate.Error{Op: "stream log", Subject: c.cfg.Slot, Class: tidegate.Misuse, Err: errLeft, Hint: "take the stream out of the agent's file"}) {
		c.log.Warn("slot dropped, the stream is being removed", "slot", c.cfg.Slot)
		if err := c.unremember(); err != nil {
			c.log.Warn("slot still counts as given up", "err", err)
		}
		s.Slots = slices.DeleteFunc(s.Slots, func(one replication.SlotState) bool { return one.Name == c.cfg.Slot })
	}
	return nil
}
