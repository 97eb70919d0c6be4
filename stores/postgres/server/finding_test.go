package server

import (
	"testing"

	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// TestClassify reads lines as servers have written them.
func TestClassify(t *testing.T) {
	const head = "2026-11-21 15:00:05.987 GMT [3874] "
	for line, want := range map[string]struct {
		kind  Kind
		fatal bool
		lsn   wal.LSN
	}{
		"FATAL:  recovery aborted because of insufficient parameter settings":                                                             {FoundInsufficient, true, 0},
		"WARNING:  hot standby is not possible because of insufficient parameter settings":                                                {FoundInsufficient, false, 0},
		"WARNING:  promotion is not possible because of insufficient parameter settings":                                                  {FoundInsufficient, false, 0},
		"LOG:  incorrect resource manager data checksum in record at 0/5C83C1B8":                                                          {FoundBadRecord, false, 0x5C83C1B8},
		"LOG:  record with incorrect prev-link 0/3000060 at 0/5000028":                                                                    {FoundBadRecord, false, 0x3000060},
		"LOG:  invalid record length at 0/3000148: wanted 24, got 0":                                                                      {},
		"LOG:  invalid record length at 0/3000148: expected at least 24, got 0":                                                           {},
		"LOG:  invalid record length at 0/3000148: wanted 24, got 7":                                                                      {FoundBadRecord, false, 0x3000148},
		"FATAL:  could not receive data from WAL stream: ERROR:  requested WAL segment 000000010000000000000003 has already been removed": {FoundUpstream, true, 0},
		"FATAL:  could not connect to the primary server: connection to server on socket \"/x\" failed: No such file":                     {FoundUpstream, true, 0},
		"FATAL:  database system identifier differs between the primary and standby":                                                      {FoundHistory, true, 0},
		"FATAL:  highest timeline 1 of the primary is behind recovery timeline 2":                                                         {FoundHistory, true, 0},
		"LOG:  new timeline 2 forked off current database system timeline 1 before current recovery point 0/5000A0":                       {FoundHistory, false, 0x5000A0},
		"ERROR:  canceling statement due to conflict with recovery":                                                                       {FoundConflict, false, 0},
		"PANIC:  could not write to file \"pg_wal/xlogtemp.7\": No space left on device":                                                  {FoundDisk, true, 0},
		"PANIC:  WAL contains references to invalid pages":                                                                                {FoundBadRecord, true, 0},
		"PANIC:  something new": {FoundCrash, true, 0},
		"FATAL:  could not access file \"pg_hint\": No such file or directory":                                 {FoundConfiguration, true, 0},
		"FATAL:  could not open file \"global/pg_filenode.map\": No such file or directory":                    {FoundDamage, true, 0},
		"ERROR:  invalid page in block 3 of relation base/5/1259":                                              {FoundDamage, false, 0},
		"FATAL:  relation mapping file \"global/pg_filenode.map\" contains incorrect checksum":                 {FoundDamage, true, 0},
		"FATAL:  could not open file \"x\": Input/output error":                                                {FoundDisk, true, 0},
		"FATAL:  could not locate required checkpoint record":                                                  {FoundBase, true, 0},
		"LOG:  server process (PID 7) was terminated by signal 9: Killed":                                      {FoundCrash, false, 0},
		"LOG:  started streaming WAL from primary at 0/3000000 on timeline 1":                                  {},
		"LOG:  consistent recovery state reached at 0/20003C8":                                                 {},
		"FATAL:  terminating connection due to administrator command":                                          {},
		"STATEMENT:  select 'FATAL:  recovery aborted because of insufficient parameter settings'":             {},
		"DETAIL:  max_connections = 50 is a lower setting than on the primary server, where its value was 90.": {},
	} {
		got, ok := Classify(head + line)
		if got.Kind != want.kind || ok != (want.kind != "") || got.Fatal != want.fatal || got.LSN != want.lsn {
			t.Errorf("%s\n got %+v\nwant %+v", line, got, want)
		}
	}
}

func FuzzClassify(f *testing.F) {
	f.Add("2026-11-21 15:00:05.987 GMT [3874] LOG:  record with incorrect prev-link 0/3000060 at 0/5000028")
	f.Add("FATAL:  ")
	f.Fuzz(func(t *testing.T, line string) {
		if got, ok := Classify(line); ok && (got.Kind == "" || got.Message == "") {
			t.Errorf("%q: %+v", line, got)
		}
	})
}
