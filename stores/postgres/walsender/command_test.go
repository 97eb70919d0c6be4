package walsender

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseCommand(t *testing.T) {
	for _, tc := range []struct {
		text string
		want command
	}{
		// As walreceivers of 15 to 18 send them.
		{"IDENTIFY_SYSTEM", command{verb: identifySystem}},
		{"TIMELINE_HISTORY 2", command{verb: history, timeline: 2}},
		{"START_REPLICATION 0/3000000 TIMELINE 1", command{verb: startStreaming, from: 0x3000000, timeline: 1}},
		{`START_REPLICATION SLOT "dr_1" 16/B374D848 TIMELINE 4294967295`, command{verb: startStreaming, name: "dr_1", from: 0x16B374D848, timeline: 1<<32 - 1}},
		{"START_REPLICATION SLOT dr PHYSICAL 0/A000000", command{verb: startStreaming, name: "dr", from: 0xA000000}},
		{`CREATE_REPLICATION_SLOT "x" TEMPORARY PHYSICAL RESERVE_WAL`, command{verb: createSlot, name: "x", temporary: true}},
		// As pg_receivewal and pg_basebackup do.
		{"SHOW wal_segment_size", command{verb: show, name: "wal_segment_size"}},
		{"READ_REPLICATION_SLOT \"a_slot\"", command{verb: readSlot, name: "a_slot"}},
		{`CREATE_REPLICATION_SLOT "x" PHYSICAL (RESERVE_WAL)`, command{verb: createSlot, name: "x"}},
		{`CREATE_REPLICATION_SLOT "x" PHYSICAL (RESERVE_WAL, SNAPSHOT 'nothing')`, command{verb: createSlot, name: "x"}},
		{`DROP_REPLICATION_SLOT "x"`, command{verb: dropSlot, name: "x"}},
		// As people do.
		{"  identify_system ; ", command{verb: identifySystem}},
		{"drop_replication_slot Some_Slot wait;", command{verb: dropSlot, name: "some_slot"}},
		{"SHOW plpgsql.variable_conflict", command{verb: show, name: "plpgsql.variable_conflict"}},
		{`show "a ""b"""`, command{verb: show, name: `a "b"`}},
	} {
		t.Run(tc.text, func(t *testing.T) {
			got, err := parseCommand(tc.text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(command{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseCommandRefuses(t *testing.T) {
	for _, tc := range []struct {
		text, want string
		is         error
	}{
		{"", "syntax error at end of input", nil},
		{"SELECT 1", `syntax error at or near "SELECT"`, nil},
		{"IDENTIFY_SYSTEM; IDENTIFY_SYSTEM", `syntax error at or near "IDENTIFY_SYSTEM"`, nil},
		{"IDENTIFY_SYSTEM 1", `syntax error at or near "1"`, nil},
		{"TIMELINE_HISTORY", "syntax error at end of input", nil},
		{"TIMELINE_HISTORY 0", "invalid timeline 0", errBadTimeline},
		{"TIMELINE_HISTORY 4294967296", "invalid timeline 4294967296", errBadTimeline},
		{"TIMELINE_HISTORY -1", `syntax error at or near "-1"`, nil},
		{"START_REPLICATION", "syntax error at end of input", nil},
		{"START_REPLICATION 0/3000000 TIMELINE", "syntax error at end of input", nil},
		{"START_REPLICATION 3000000", `syntax error at or near "3000000"`, nil},
		{"START_REPLICATION 0/123456789", `syntax error at or near "0/123456789"`, nil},
		{"START_REPLICATION SLOT", "syntax error at end of input", nil},
		{`START_REPLICATION SLOT "x" LOGICAL 0/0 (proto_version '1')`, "logical replication is not supported", errLogical},
		{`CREATE_REPLICATION_SLOT "x" LOGICAL "pgoutput"`, "logical replication is not supported", errLogical},
		{`CREATE_REPLICATION_SLOT "x" PHYSICAL (`, "syntax error at end of input", nil},
		{`CREATE_REPLICATION_SLOT "x" PHYSICAL (,)`, `syntax error at or near ","`, nil},
		{`CREATE_REPLICATION_SLOT "x" PHYSICAL (A B C)`, `syntax error at or near "C"`, nil},
		{`CREATE_REPLICATION_SLOT "X" PHYSICAL`, `replication slot name "X" contains invalid character`, errSlotName},
		{`CREATE_REPLICATION_SLOT "" PHYSICAL`, `replication slot name "" is too short`, errSlotName},
		{"READ_REPLICATION_SLOT " + strings.Repeat("a", 64), "is too long", errSlotName},
		{"READ_REPLICATION_SLOT (", `syntax error at or near "("`, nil},
		{`READ_REPLICATION_SLOT "x`, "unterminated quoted string", nil},
		{"BASE_BACKUP (LABEL 'x')", "command is not supported by this server: BASE_BACKUP", errNoSuchVerb},
	} {
		t.Run(tc.text, func(t *testing.T) {
			got, err := parseCommand(tc.text)
			if err == nil {
				t.Fatalf("got %+v, want an error", got)
			}
			if !strings.Contains(err.Error(), tc.want) || tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("got %q, want %q", err, tc.want)
			}
		})
	}
}

func FuzzParseCommand(f *testing.F) {
	for _, s := range []string{
		"IDENTIFY_SYSTEM", "TIMELINE_HISTORY 2", `START_REPLICATION SLOT "dr" 0/3000000 TIMELINE 1;`,
		`CREATE_REPLICATION_SLOT "x" TEMPORARY PHYSICAL (RESERVE_WAL, A 'b''c')`, `SHOW "a""b"`, "DROP_REPLICATION_SLOT x WAIT",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseCommand(text)
		if err != nil {
			return
		}
		if len(c.name) > slotNameMax && c.verb != show {
			t.Errorf("slot of %d bytes", len(c.name))
		}
		if c.verb == history && c.timeline == 0 {
			t.Error("timeline 0")
		}
	})
}
