package walsender

import (
	"bytes"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// told keeps the last that each receiver said.
type told struct {
	mu       sync.Mutex
	status   map[string]Status
	feedback map[string]Feedback
	ended    []error
}

func (k *told) events() Events {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status, k.feedback = map[string]Status{}, map[string]Feedback{}
	return Events{
		Status: func(s Stream, st Status) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.status[s.Application] = st
		},
		Feedback: func(s Stream, f Feedback) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.feedback[s.Application] = f
		},
		Ended: func(_ Stream, err error) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.ended = append(k.ended, err)
		},
	}
}

func (k *told) of(application string) (Status, Feedback) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status[application], k.feedback[application]
}

// socketDir is a directory that only the account of the servers may enter.
func socketDir(t *testing.T, in pgtest.Install) string {
	t.Helper()
	dir := openDir(t, in)
	in.Give(t, dir, 0o710)
	return dir
}

func serverOn(t *testing.T, dir string, log Log, events Events) *Server {
	t.Helper()
	s, err := New(log, vfs.OS(), clock.System(), slog.New(slog.NewTextHandler(t.Output(), nil)), Config{Directory: dir}, events)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// standbyOf makes a hot standby out of a base backup of primary; all its log
// comes by the given connection string.
func standbyOf(t *testing.T, primary *pgtest.Server, name, conninfo string) *pgtest.Server {
	t.Helper()
	s := pgtest.AdoptDataDir(t, name, pgtest.Config{Settings: map[string]string{
		"primary_conninfo": conninfo, "hot_standby_feedback": "on", "wal_receiver_status_interval": "1s", "max_wal_size": "4GB",
	}}, func(dataDir string) {
		backup(t, primary, dataDir)
		primary.WriteFile(t, filepath.Join(dataDir, "standby.signal"), "", 0o600)
	})
	s.Start(t)
	return s
}

// backup copies the primary's files without its log, by the way of the manual
// that needs no program of the primary's version.
func backup(t *testing.T, primary *pgtest.Server, dataDir string) {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), primary.Conn())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "SELECT pg_backup_start('test', true)").ReadAll(); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", primary.DataDir+"/.", dataDir).CombinedOutput(); err != nil {
		t.Fatalf("copy: %v: %s", err, out)
	}
	rows, err := conn.Exec(t.Context(), "SELECT labelfile FROM pg_backup_stop(false)").ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	primary.WriteFile(t, filepath.Join(dataDir, "backup_label"), string(rows[0].Rows[0][0]), 0o600)
	for _, name := range []string{"postmaster.pid", "pg_wal"} {
		if err := os.RemoveAll(filepath.Join(dataDir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dataDir, "pg_wal"), 0o700); err != nil {
		t.Fatal(err)
	}
}

// burst makes the primary write at least the given log, in rows of all sizes and
// in many transactions, as fast as it can.
func burst(t *testing.T, primary *pgtest.Server, mib int) {
	t.Helper()
	start := lsn(t, primary.LSN(t))
	script := filepath.Join(primary.Dir, "burst.sql")
	primary.WriteFile(t, script, `\set n random(1, 400)
BEGIN;
INSERT INTO blob SELECT i, repeat(md5(i::text), 1 + (i * 7) % 61) FROM generate_series(1, :n) i;
SAVEPOINT a;
INSERT INTO blob SELECT i, repeat(md5(i::text), 1000 + i) FROM generate_series(1, :n / 100) i;
COMMIT;
`, 0o644)
	for lsn(t, primary.LSN(t)) < start+wal.LSN(mib)<<20 {
		primary.Tool(t, "pgbench", "-n", "-c", "4", "-j", "2", "-t", "10", "-f", script)
	}
}

// storm makes the primary change its catalogues as fast as it can, in many
// transactions, and write one transaction of thousands of parts.
func storm(t *testing.T, primary *pgtest.Server) {
	t.Helper()
	script := filepath.Join(primary.Dir, "storm.sql")
	primary.WriteFile(t, script, `CREATE TABLE ddl_:client_id AS SELECT i, md5(i::text) b FROM generate_series(1, 500) i;
CREATE INDEX ON ddl_:client_id (b);
ALTER TABLE ddl_:client_id ADD COLUMN c int DEFAULT 7, ALTER i TYPE bigint;
CREATE VIEW seen_:client_id AS SELECT count(*) FROM ddl_:client_id;
BEGIN;
TRUNCATE ddl_:client_id;
INSERT INTO ddl_:client_id (i, b) SELECT i, 'x' FROM generate_series(1, 50) i;
COMMIT;
VACUUM FULL ddl_:client_id;
BEGIN;
DROP TABLE ddl_:client_id CASCADE;
CREATE TABLE ddl_:client_id (n int);
ROLLBACK;
DROP TABLE ddl_:client_id CASCADE;
`, 0o644)
	primary.Tool(t, "pgbench", "-n", "-c", "4", "-j", "2", "-t", "40", "-f", script)
	primary.SQL(t, `DO $$ BEGIN
		FOR i IN 1..3000 LOOP
			BEGIN INSERT INTO blob SELECT -i, repeat('y', 3000) FROM generate_series(1, 5); EXCEPTION WHEN OTHERS THEN RAISE; END;
		END LOOP;
	END $$`)
}

func lsn(t *testing.T, s string) wal.LSN {
	t.Helper()
	l, err := wal.ParseLSN(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

var keepLog = map[string]string{"max_wal_size": "4GB", "wal_keep_size": "4GB", "synchronous_commit": "off", "shared_buffers": "128MB"}

// disconnects excuses what a receiver says when its server goes away.
var disconnects = []string{
	`could not connect to the primary server|connection to server on socket|No such file or directory|Connection refused`,
	`could not send end-of-streaming message to primary: (no COPY in progress|server closed)`,
	`could not receive data from WAL stream: server closed the connection`,
	`could not send data to WAL stream: server closed the connection`,
	// Stopped between a connection and its stream: what was asked is not answered, and
	// why is printed by the client's library itself.
	`could not (receive database system identifier and timeline ID from the primary server|start WAL streaming|receive timeline history file from the primary server): .*(server closed the connection|terminating connection due to administrator command)`,
	`^FATAL:  terminating connection due to administrator command$`,
	`This probably means the server terminated abnormally`,
	`^\tinvalid socket$`, // goes with that, from 18 on
	// With no stream at hand it looks into pg_wal and finds the end there.
	`invalid record length at [0-9A-F/]+: (wanted|expected at least) 24, got 0$`,
	`invalid magic number 0000 in (log|WAL) segment`,
}

// impatient excuses what a standby says to a test that asks before it is ready.
const impatient = `the database system is starting up`

func checkSame(t *testing.T, primary, standby *pgtest.Server) {
	t.Helper()
	// A checkpoint or a vacuum may go on writing, so nothing but the rows is the measure.
	standby.UntilReplayed(t, primary.LSN(t))
	const blobs = "SELECT count(*) || ':' || sum(hashtextextended(t::text, 0)) FROM blob t"
	if want, got := primary.BenchDigest(t)+primary.SQL(t, blobs), standby.BenchDigest(t)+standby.SQL(t, blobs); got != want {
		t.Errorf("%s has %s, %s has %s", standby.Name, got, primary.Name, want)
	}
}

// served is a primary's log and a server of it.
type served struct {
	primary *pgtest.Server
	log     *pgLog
	dir     string
	known   told
	*Server
	stop func() error
}

func serveLogOf(t *testing.T, primary *pgtest.Server) *served {
	t.Helper()
	s := &served{primary: primary, log: newPGLog(t, primary), dir: socketDir(t, primary.Install)}
	primary.BenchInit(t, 2)
	primary.SQL(t, "CREATE TABLE blob (i int, b text); ALTER TABLE blob ALTER b SET STORAGE EXTERNAL")
	s.log.follow(t, 1, primary, lsn(t, primary.LSN(t)), "pg_current_wal_flush_lsn()", nil)
	s.start(t)
	return s
}

func (s *served) start(t *testing.T) {
	t.Helper()
	s.Server = serverOn(t, s.dir, s.log, s.known.events())
	s.stop = run(t, s.Server)
}

// end stops the server for good: no stream may have ended otherwise than it should.
func (s *served) end(t *testing.T) {
	t.Helper()
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	for _, err := range s.known.ended {
		if err != nil {
			t.Errorf("a stream ended: %v", err)
		}
	}
}

// Two standbys follow a burst of more than 200 MB, catalogues that change all the
// time and a transaction of thousands of parts, and find nothing wrong with it: what a bad cut does, heals by itself and shows nowhere but in their logs.
func TestStandbysUnderBursts(t *testing.T) {
	primary := pgtest.New(t, pgtest.Config{Settings: keepLog})
	s := serveLogOf(t, primary)
	standbys := []*pgtest.Server{
		standbyOf(t, primary, "warm", s.cfg.ConnInfo("warm")),
		standbyOf(t, primary, "spare", s.cfg.ConnInfo("spare")),
	}
	beside := primary.Bench(t, "-c", "2")
	burst(t, primary, 220)
	storm(t, primary)
	beside.Stop()
	primary.SQL(t, "SELECT pg_switch_wal()")
	for _, standby := range standbys {
		checkSame(t, primary, standby)
		if c := standby.Complaints(t, 0, impatient); c != nil {
			t.Errorf("%s complains:\n%s", standby.Name, strings.Join(c, "\n"))
		}
	}

	end := lsn(t, standbys[0].LSN(t))
	s.RequestStatus()
	until(t, "a status and a feedback of the standbys", func() bool {
		warm, feedback := s.known.of("warm")
		spare, _ := s.known.of("spare")
		return warm.Apply >= end && spare.Apply >= end && feedback.Xmin != 0
	})
	if states := s.Streams(); len(states) != 2 || states[0].Sent < end {
		t.Errorf("streams: %+v", states)
	}

	// The server goes and comes back under load: nobody is disturbed but for the connection.
	marks := []int{standbys[0].LogSize(t), standbys[1].LogSize(t)}
	beside = primary.Bench(t, "-c", "2")
	for range 3 {
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
		burst(t, primary, 10)
		s.start(t)
		burst(t, primary, 10)
	}
	beside.Stop()
	for i, standby := range standbys {
		checkSame(t, primary, standby)
		if c := standby.Complaints(t, marks[i], disconnects...); c != nil {
			t.Errorf("%s complains after a restart:\n%s", standby.Name, strings.Join(c, "\n"))
		}
		standby.UntilSQL(t, "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'", "1")
	}
	s.end(t)
}

// pg_receivewal, on a slot, writes the files that the primary has.
func TestArchiveUnderBurst(t *testing.T) {
	primary := pgtest.New(t, pgtest.Config{Settings: keepLog})
	s := serveLogOf(t, primary)
	dir, conninfo := openDir(t, primary.Install), s.cfg.ConnInfo("archive")
	primary.Run(t, "pg_receivewal", "-d", conninfo, "--slot", "archive", "--create-slot")
	archive := primary.Install.Start(t, nil, "pg_receivewal", "-d", conninfo, "--slot", "archive", "-D", dir, "--synchronous", "-v")
	burst(t, primary, 60)
	end := lsn(t, primary.SQL(t, "SELECT pg_switch_wal()"))
	last := filepath.Join(dir, s.log.id.SegmentSize.FileName(1, end-1))
	until(t, "pg_receivewal to have "+filepath.Base(last), func() bool {
		_, err := os.Stat(last)
		return err == nil
	})
	if states := s.Streams(); len(states) != 1 || states[0].Slot != "archive" || states[0].Sent < end {
		t.Errorf("streams: %+v", states)
	}
	until(t, "its word on the end", func() bool {
		status, _ := s.known.of("archive")
		return status.Flush >= end && status.Apply == 0
	})
	archive.Stop()
	primary.Run(t, "pg_receivewal", "-d", conninfo, "--slot", "archive", "--drop-slot")
	s.end(t)

	names, err := filepath.Glob(filepath.Join(dir, "????????????????????????"))
	if err != nil || len(names) < 4 {
		t.Fatalf("received %d segments, %v", len(names), err)
	}
	for _, name := range names {
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(primary.DataDir, "pg_wal", filepath.Base(name)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("segment %s differs", filepath.Base(name))
		}
	}
}

// A standby and pg_receivewal follow a promotion without a restart; another one
// stops where it was told to.
func TestReceiversFollowTimelines(t *testing.T) {
	primary := pgtest.New(t, pgtest.Config{Settings: keepLog})
	primary.BenchInit(t, 1)
	primary.SQL(t, "CREATE TABLE blob (i int, b text)")
	replica := primary.Replica(t, pgtest.Config{})
	log := newPGLog(t, primary)
	// All is read from the replica, whose files are of both timelines.
	start := lsn(t, replica.SQL(t, "SELECT pg_last_wal_receive_lsn()"))
	log.follow(t, 1, replica, start, "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE '0/0' END", nil)
	s := &served{primary: primary, log: log, dir: socketDir(t, primary.Install)}
	s.start(t)
	standby := standbyOf(t, primary, "warm", s.cfg.ConnInfo("warm"))
	archive := primary.Install.Start(t, nil, "pg_receivewal", "-d", s.cfg.ConnInfo("archive"), "-D", openDir(t, primary.Install))
	burst(t, primary, 5)
	checkSame(t, primary, standby)

	primary.Stop(t, pgtest.Fast)
	replica.Promote(t)
	history, err := os.ReadFile(filepath.Join(replica.DataDir, "pg_wal", wal.Timeline(2).HistoryFileName()))
	if err != nil {
		t.Fatal(err)
	}
	switches, err := wal.ParseHistory(2, history)
	if err != nil {
		t.Fatal(err)
	}
	log.finish(t, 1, 2, switches[0].At)
	log.follow(t, 2, replica, switches[0].At, "pg_current_wal_flush_lsn()", history)
	burst(t, replica, 5)
	checkSame(t, replica, standby)
	end := lsn(t, replica.LSN(t))
	until(t, "pg_receivewal to follow", func() bool {
		s.RequestStatus()
		archive, _ := s.known.of("archive")
		return archive.Write >= end
	})
	archive.Stop()

	burst(t, replica, 1)
	out := primary.Run(t, "pg_receivewal", "-d", s.cfg.ConnInfo("stopper"), "-D", openDir(t, primary.Install), "--endpos", end.String(), "--no-loop", "-v")
	if !strings.Contains(out, "stopped log streaming at") {
		t.Errorf("pg_receivewal: %s", out)
	}
	// It looks for more in pg_wal before it takes the new timeline.
	atFork := "invalid record length at " + switches[0].At.String() + ": (wanted|expected at least) 24, got 0$"
	if c := standby.Complaints(t, 0, impatient, atFork); c != nil {
		t.Errorf("the standby complains:\n%s", strings.Join(c, "\n"))
	}
	s.end(t)
}

// openDir is a directory that the account of the servers may write.
func openDir(t *testing.T, in pgtest.Install) string {
	t.Helper()
	dir := filepath.Join(in.Place(t), "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	in.Give(t, dir, 0o700)
	return dir
}
