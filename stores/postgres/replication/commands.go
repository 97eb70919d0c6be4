package replication

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// Identity is what a server says of itself.
type Identity struct {
	System   uint64       // system identifier, drawn by initdb
	Timeline wal.Timeline // the one that it writes, or, as a standby, replays
	End      wal.LSN      // end of what it has flushed; as a standby, replayed
}

// Identify asks the server who it is (IDENTIFY_SYSTEM). A server of another system
// than [Config.System] is a [SystemError].
func (c *Conn) Identify(ctx context.Context) (Identity, error) {
	row, err := c.row(ctx, "IDENTIFY_SYSTEM", 3)
	if err != nil {
		return Identity{}, c.fail("identify", err)
	}
	var id Identity
	var errs [3]error
	id.System, errs[0] = strconv.ParseUint(row[0].text, 10, 64)
	id.Timeline, errs[1] = wal.ParseTimeline(row[1].text)
	id.End, errs[2] = wal.ParseLSN(row[2].text)
	if err := errors.Join(errs[:]...); err != nil {
		return Identity{}, c.fail("identify", err)
	}
	if c.cfg.System != 0 && id.System != c.cfg.System {
		return id, otherSystem("identify", c.target, c.cfg.System, id.System)
	}
	return id, nil
}

// Show asks for one setting (SHOW), in the server's own spelling: "16MB".
func (c *Conn) Show(ctx context.Context, name string) (string, error) {
	row, err := c.row(ctx, "SHOW "+name, 1)
	if err != nil {
		return "", c.fail("show "+name+" of", err)
	}
	return row[0].text, nil
}

// SegmentSize asks for the size of the log's segments.
func (c *Conn) SegmentSize(ctx context.Context) (wal.SegmentSize, error) {
	s, err := c.Show(ctx, "wal_segment_size")
	if err != nil {
		return 0, err
	}
	size, err := wal.ParseSegmentSize(s)
	if err != nil {
		return 0, c.fail("show wal_segment_size of", err)
	}
	return size, nil
}

// History asks for a timeline's history file, verbatim; see [wal.ParseHistory]. The
// first timeline has none: tidegate.ErrNotFound.
func (c *Conn) History(ctx context.Context, t wal.Timeline) ([]byte, error) {
	row, err := c.row(ctx, "TIMELINE_HISTORY "+t.String(), 2)
	if err == nil {
		return []byte(row[1].text), nil
	}
	if codeOf(err) == "58P01" { // no such file
		err = &tidegate.Error{
			Op: "read history of timeline " + t.String() + " of", Subject: c.target, Class: tidegate.Permanent, Err: tidegate.ErrNotFound,
		}
	}
	return nil, c.fail("read history of timeline "+t.String()+" of", err)
}

// Lineage asks for the server's identity and its timeline's history and makes the
// lineage of its log.
func (c *Conn) Lineage(ctx context.Context) (Identity, wal.Lineage, error) {
	id, err := c.Identify(ctx)
	if err != nil {
		return id, wal.Lineage{}, err
	}
	var h wal.History
	if id.Timeline > 1 {
		text, err := c.History(ctx, id.Timeline)
		if err != nil {
			return id, wal.Lineage{}, err
		}
		if h, err = wal.ParseHistory(id.Timeline, text); err != nil {
			return id, wal.Lineage{}, c.fail("lineage of", err)
		}
	}
	l, err := wal.NewLineage(id.System, id.Timeline, h)
	if err != nil {
		return id, l, c.fail("lineage of", err)
	}
	return id, l, nil
}

// Slot is what the server keeps for a receiver.
type Slot struct {
	Name     string
	Exists   bool
	Physical bool         // another kind is of no use for a stream of log
	Restart  wal.LSN      // the log is kept from here on; 0 when it never was, or no longer is
	Timeline wal.Timeline // of Restart; 0 with it
}

// Check reports a slot that cannot serve: [ErrSlotMissing], [ErrSlotLost], or, when
// the slot is of another kind, [ErrSlotExists].
func (s Slot) Check() error {
	fail := func(cause error, hint string) error {
		return &tidegate.Error{Op: "check replication slot", Subject: s.Name, Class: tidegate.Permanent, Hint: hint, Err: cause}
	}
	switch {
	case !s.Exists:
		return fail(ErrSlotMissing, refusals["42704"].hint)
	case !s.Physical:
		return fail(fmt.Errorf("%w, and is a logical one", ErrSlotExists), refusals["42710"].hint)
	case s.Restart == 0:
		return fail(ErrSlotLost, "begin a new generation; raise max_slot_wal_keep_size")
	}
	return nil
}

// ReadSlot asks for a physical slot (READ_REPLICATION_SLOT). That there is none is
// no error.
func (c *Conn) ReadSlot(ctx context.Context, name string) (Slot, error) {
	if err := checkSlotName(name); err != nil {
		return Slot{}, err
	}
	s := Slot{Name: name}
	row, err := c.row(ctx, "READ_REPLICATION_SLOT "+name, 3)
	if err != nil {
		// "cannot use READ_REPLICATION_SLOT with a logical replication slot" (walsender.c)
		if codeOf(err) == "55000" {
			s.Exists = true
			return s, nil
		}
		return Slot{}, c.fail("read replication slot "+name+" of", err)
	}
	if row[0].null {
		return s, nil
	}
	s.Exists, s.Physical = true, row[0].text == "physical"
	if row[1].null {
		return s, nil
	}
	var errs [2]error
	s.Restart, errs[0] = wal.ParseLSN(row[1].text)
	s.Timeline, errs[1] = wal.ParseTimeline(row[2].text)
	if err := errors.Join(errs[:]...); err != nil {
		return Slot{}, c.fail("read replication slot "+name+" of", err)
	}
	return s, nil
}

// CreateSlot creates a physical slot that keeps the log from now on, and returns
// it as it then is. A temporary one lives as long as this connection, and only until
// the first command that fails on it. Errors wrap
// [ErrSlotExists] or [ErrTooMany].
func (c *Conn) CreateSlot(ctx context.Context, name string, temporary bool) (Slot, error) {
	if err := checkSlotName(name); err != nil {
		return Slot{}, err
	}
	kind := " PHYSICAL "
	if temporary {
		kind = " TEMPORARY PHYSICAL "
	}
	if _, err := c.row(ctx, "CREATE_REPLICATION_SLOT "+name+kind+"(RESERVE_WAL)", 0); err != nil {
		return Slot{}, c.fail("create replication slot "+name+" of", err)
	}
	// Its answer says 0/0 whatever was reserved: consistent points are for logical slots.
	return c.ReadSlot(ctx, name)
}

// DropSlot drops a slot that nobody uses. A missing one is [ErrSlotMissing].
func (c *Conn) DropSlot(ctx context.Context, name string) error {
	if err := checkSlotName(name); err != nil {
		return err
	}
	if _, err := c.row(ctx, "DROP_REPLICATION_SLOT "+name, 0); err != nil {
		return c.fail("drop replication slot "+name+" of", err)
	}
	return nil
}

// checkSlotName: what the server takes needs no quotes in a command.
func checkSlotName(name string) error {
	if name != "" && len(name) <= 63 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == "" {
		return nil
	}
	return &tidegate.Error{
		Op: "replication slot", Subject: strconv.Quote(name), Class: tidegate.Misuse,
		Err: errors.New("want 1 to 63 of a-z, 0-9 and _"),
	}
}

// field is one value of an answer.
type field struct {
	text string
	null bool
}

// row runs a command and returns its only row, which has at least columns values;
// with 0 any answer will do.
func (c *Conn) row(ctx context.Context, command string, columns int) ([]field, error) {
	results, err := c.pg.Exec(ctx, command).ReadAll()
	if err != nil {
		return nil, err
	}
	if columns == 0 {
		return nil, nil
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < columns {
		return nil, fmt.Errorf("%s: want one row of %d values", command, columns)
	}
	return fields(results[0].Rows[0]), nil
}

// fields copies a row's values.
func fields(values [][]byte) []field {
	out := make([]field, len(values))
	for i, v := range values {
		out[i] = field{text: string(v), null: v == nil}
	}
	return out
}
