package server

import (
	"slices"
	"strings"
	"time"

	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// Kind says what a finding is about.
type Kind string

// The kinds. Those of the log are told from the server's English messages, which
// the configuration asks for; a message that is none of these is no finding.
const (
	// FoundInsufficient: settings are below the primary's; replay is paused or has
	// ended and promotion is impossible until a restart with larger ones, which
	// [Server.Run] does by itself.
	FoundInsufficient Kind = "insufficient-settings"
	// FoundUpstream: the follower cannot connect, or was refused or cut off.
	FoundUpstream Kind = "upstream"
	// FoundBadRecord: what was received is no valid log; not the ordinary end.
	FoundBadRecord Kind = "bad-record"
	// FoundHistory: the upstream's timelines are not those of this data.
	FoundHistory Kind = "history"
	// FoundConflict: a read was ended because replay needed its rows gone.
	FoundConflict Kind = "conflict"
	// FoundDisk: a write, sync or read of a file failed, or there is no space.
	FoundDisk Kind = "disk"
	// FoundConfiguration: the server does not start with these files.
	FoundConfiguration Kind = "configuration"
	// FoundBase: the base is incomplete or its log is missing.
	FoundBase Kind = "base"
	// FoundDamage: a file of the data directory is missing, or not what it should be.
	FoundDamage Kind = "damage"
	// FoundCrash: a process of the server died, or the server itself.
	FoundCrash Kind = "crash"
)

// Finding is something that somebody should know of a server.
type Finding struct {
	Kind    Kind      `json:"kind"`
	At      time.Time `json:"at"` // when it was read, by our wall clock
	LSN     wal.LSN   `json:"lsn,omitempty"`
	Message string    `json:"message"` // the server's own words
	Hint    string    `json:"hint,omitempty"`
	Fatal   bool      `json:"fatal,omitempty"` // the server says that it, or its recovery, ends by this
}

// pattern tells a finding from a message: all of words must be in it.
type pattern struct {
	words []string
	kind  Kind
	hint  string
}

// patterns are asked in order; the first that fits says what a message is. Words
// are those of releases 15 to 18 with lc_messages = C.
var patterns = []pattern{
	{[]string{"insufficient parameter settings"}, FoundInsufficient, "the server is restarted with the primary's sizes"},

	{[]string{"database system identifier differs"}, FoundHistory, "the upstream is of another cluster: check the stream's id"},
	{[]string{"highest timeline", "is behind recovery timeline"}, FoundHistory, hintRebuild},
	{[]string{"new timeline", "is not a child of database system timeline"}, FoundHistory, hintRebuild},
	{[]string{"new timeline", "forked off current database system timeline"}, FoundHistory, hintRebuild},
	{[]string{"requested timeline", "is not a child of this server's history"}, FoundHistory, hintRebuild},
	{[]string{"requested timeline", "does not contain minimum recovery point"}, FoundHistory, hintRebuild},
	{[]string{"is not in this server's history"}, FoundHistory, hintRebuild},

	{[]string{"incorrect resource manager data checksum in record"}, FoundBadRecord, ""},
	{[]string{"record with incorrect prev-link"}, FoundBadRecord, ""},
	{[]string{"record with invalid length at"}, FoundBadRecord, ""},
	{[]string{"invalid resource manager ID"}, FoundBadRecord, ""},
	{[]string{"invalid contrecord length"}, FoundBadRecord, ""},
	{[]string{"there is no contrecord flag"}, FoundBadRecord, ""},
	{[]string{"invalid magic number"}, FoundBadRecord, ""},
	{[]string{"unexpected pageaddr"}, FoundBadRecord, ""},
	{[]string{"out-of-sequence timeline ID"}, FoundBadRecord, ""},
	{[]string{"WAL contains references to invalid pages"}, FoundBadRecord, hintRebuild},
	{[]string{"page", "is uninitialized"}, FoundBadRecord, ""},
	{[]string{"page verification failed"}, FoundBadRecord, hintRebuild},

	{[]string{"has already been removed"}, FoundUpstream, "the log does not reach back this far: restore a newer base"},
	{[]string{"is ahead of the WAL flush position"}, FoundUpstream, "this server holds more than the log: restore a base"},
	{[]string{"could not connect to the primary server"}, FoundUpstream, ""},
	{[]string{"could not receive data from WAL stream"}, FoundUpstream, ""},
	{[]string{"could not start WAL streaming"}, FoundUpstream, ""},
	{[]string{"could not receive timeline history file"}, FoundUpstream, ""},
	{[]string{"could not receive database system identifier"}, FoundUpstream, ""},
	{[]string{"terminating walreceiver due to timeout"}, FoundUpstream, ""},
	{[]string{"invalid record length"}, FoundBadRecord, ""}, // but see ordinaryEnd

	{[]string{"due to conflict with recovery"}, FoundConflict, "raise max_standby_streaming_delay, or turn feedback on"},

	{[]string{"No space left on device"}, FoundDisk, "make room in the home's file system"},
	{[]string{"Input/output error"}, FoundDisk, "check the disk, then restore a base"},
	{[]string{"Read-only file system"}, FoundDisk, "check the disk"},
	{[]string{"could not fsync"}, FoundDisk, "check the disk, then restore a base"},

	{[]string{"could not locate a valid checkpoint record"}, FoundBase, hintRebuild},
	{[]string{"could not locate required checkpoint record"}, FoundBase, hintRebuild},
	{[]string{"could not find redo location"}, FoundBase, hintRebuild},
	{[]string{"WAL ends before end of online backup"}, FoundBase, hintRebuild},
	{[]string{"WAL ends before consistent recovery point"}, FoundBase, hintRebuild},
	{[]string{"invalid data in file", "backup_label"}, FoundBase, hintRebuild},
	{[]string{"backup_label contains data inconsistent"}, FoundBase, hintRebuild},
	{[]string{"could not open file \""}, FoundDamage, hintRebuild},
	{[]string{"could not access status of transaction"}, FoundDamage, hintRebuild},
	{[]string{"could not read block"}, FoundDamage, hintRebuild},
	{[]string{"invalid page in block"}, FoundDamage, hintRebuild},
	{[]string{"relation mapping file", "contains"}, FoundDamage, hintRebuild},

	{[]string{"database files are incompatible with server"}, FoundConfiguration, "set bin_dir to the release that the base is of"},

	{[]string{"contains errors"}, FoundConfiguration, hintConfig},
	{[]string{"unrecognized configuration parameter"}, FoundConfiguration, hintConfig},
	{[]string{"invalid value for parameter"}, FoundConfiguration, hintConfig},
	{[]string{"could not open configuration file"}, FoundConfiguration, hintConfig},
	{[]string{"could not access file"}, FoundConfiguration, "install the library that the primary preloads, or set shared_preload_libraries"},
	{[]string{"could not load library"}, FoundConfiguration, "install the library, or set shared_preload_libraries"},
	{[]string{"could not load server certificate file"}, FoundConfiguration, "put the certificate there, or set ssl and its files"},
	{[]string{"could not access private key file"}, FoundConfiguration, "put the key there, or set ssl and its files"},
	{[]string{"could not load root certificate file"}, FoundConfiguration, "put the certificate there, or set ssl and its files"},
	{[]string{"could not map anonymous shared memory"}, FoundConfiguration, "set shared_buffers to what this machine has, or huge_pages to try"},
	{[]string{"could not create any TCP/IP sockets"}, FoundConfiguration, "set listen and port to an address of this machine that is free"},
	{[]string{"could not create any Unix-domain sockets"}, FoundConfiguration, "check socket_dirs"},
	{[]string{"could not create lock file"}, FoundConfiguration, "check socket_dirs and who owns them"},
	{[]string{"lock file", "already exists"}, FoundConfiguration, "another server uses the port's socket or this data"},
	{[]string{"data directory", "has wrong ownership"}, FoundConfiguration, "check account"},
	{[]string{"data directory", "has invalid permissions"}, FoundConfiguration, "the directory must be closed to others: mode 0700 or 0750"},
	{[]string{"could not load pg_hba.conf"}, FoundConfiguration, "check hba"},

	{[]string{"was terminated by signal"}, FoundCrash, ""},
	{[]string{"startup process", "exited with exit code"}, FoundCrash, ""},
	{[]string{"aborting startup due to startup process failure"}, FoundCrash, ""},
}

const (
	hintRebuild = "move the data aside and restore a base"
	hintConfig  = "set build, or mend postgresql.conf of the primary and take a new base"
)

// severities that a message's line may have after the prefix, and whether the
// message is the end of the process.
var severities = map[string]bool{
	"LOG": false, "WARNING": false, "ERROR": false, "FATAL": true, "PANIC": true,
}

// Classify reads one line of a server's log. ok is false for what is no finding.
func Classify(line string) (f Finding, ok bool) {
	text, severity := message(line)
	if severity == "" {
		return Finding{}, false
	}
	if ordinaryEnd(text) {
		return Finding{}, false
	}
	f = Finding{Message: text, Fatal: severities[severity]}
	for _, p := range patterns {
		if !containsAll(text, p.words) {
			continue
		}
		f.Kind, f.Hint, f.LSN = p.kind, p.hint, lsnIn(text)
		return f, true
	}
	if severity == "PANIC" {
		f.Kind = FoundCrash
		return f, true
	}
	return Finding{}, false
}

// message takes a line apart: "2026-11-21 15:00:00.000 UTC [17] FATAL:  text".
// Lines without a severity continue the one before.
func message(line string) (text, severity string) {
	line = strings.TrimSpace(line)
	head, rest, found := strings.Cut(line, ":  ")
	if !found {
		return "", ""
	}
	word := head[strings.LastIndexByte(head, ' ')+1:]
	if _, known := severities[word]; !known {
		return "", ""
	}
	return rest, word
}

// ordinaryEnd tells the end of the log, which every follower meets when it has
// read all there is: zeros, where a record's length would be.
func ordinaryEnd(text string) bool {
	return strings.HasPrefix(text, "invalid record length at") && strings.HasSuffix(text, "got 0")
}

func containsAll(text string, words []string) bool {
	return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) })
}

// lsnIn returns the first LSN in a message; 0 when there is none.
func lsnIn(text string) wal.LSN {
	for word := range strings.FieldsSeq(text) {
		word = strings.TrimRight(word, ".,:;\")")
		if lsn, err := wal.ParseLSN(word); err == nil {
			return lsn
		}
	}
	return 0
}
