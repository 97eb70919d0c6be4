package journal

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/release"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/seglog"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/rpo"
)

// Journal is an open journal; see the package's documentation.
type Journal struct {
	cfg      Config
	fs       vfs.FS
	dir      string
	lock     io.Closer
	log      *seglog.Log
	recovery Recovery
	gate     gate

	// One token each: the links read the present state when they get it.
	agentKick, standbyKick chan struct{}
	failed                 chan struct{} // closed when the committer has failed
	done                   chan struct{} // closed when the committer has ended
	compare                comparer
	drawn                  atomic.Bool                // meta.Drawn, for the append path
	agentConn              atomic.Pointer[local.Conn] // latest session's with the agent

	naming sync.Mutex // held while the meta file is written; taken before mu

	mu       sync.Mutex
	work     sync.Cond         // the committer waits for something to do
	idle     sync.Cond         // the committer has finished a group
	pending  *group            // being filled
	spare    *group            // the other one, while not being written
	end      rpo.Mark          // end of what was appended
	written  tidegate.Position // handed to the operating system
	durable  tidegate.Position
	syncTo   tidegate.Position   // somebody waits for this much to be durable
	syncers  waitlist            // for durable
	writers  waitlist            // for written
	room     waitlist            // for pending to be taken
	groups   uint64              // written so far
	busy     bool                // the committer is writing
	passed   []tidegate.Position // states beside the journal that could not be restored
	frozen   bool                // CutTo or TrimBefore is at work: nothing may be appended
	closing  bool
	err      error // sticky: a write or sync failed, or Close was called
	meta     meta
	ran      bool
	released bool
}

// group is what one write hands to the operating system.
type group struct {
	buf   []byte
	marks []rpo.Mark // every record's end
	sync  bool       // somebody relies on it: fsync
}

func (g *group) reset() {
	if cap(g.buf) > groupKeepMax {
		g.buf = nil
	}
	g.buf, g.marks, g.sync = g.buf[:0], g.marks[:0], false
}

// groupKeepMax is the largest buffer kept for reuse.
const groupKeepMax = 16 << 20

// Recovery says what Open found after an unclean stop.
type Recovery struct {
	TornBytes   int64  // of records that were never acknowledged, moved aside
	Quarantined string // where to; empty if nothing was
}

// Open opens the journal in dir, creating it if there is none.
func Open(dir string, cfg Config) (*Journal, error) { return OpenFS(vfs.OS(), dir, cfg) }

// OpenFS is Open on another file system.
func OpenFS(fsys vfs.FS, dir string, cfg Config) (*Journal, error) {
	cfg = cfg.SetDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, &tidegate.Error{Op: "open journal", Subject: dir, Class: tidegate.Misuse, Err: err}
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open journal %s: %w", dir, err)
	}
	if err := durable.MkdirAll(fsys, abs); err != nil {
		return nil, fmt.Errorf("open journal %s: %w", dir, err)
	}
	lock, err := fsys.Lock(filepath.Join(abs, lockName))
	if err != nil {
		return nil, &tidegate.Error{
			Op: "open journal", Subject: dir, Class: tidegate.ClassOf(err), Err: err,
			Hint: "another process has this journal open",
		}
	}
	j := &Journal{
		cfg: cfg, fs: fsys, dir: abs, lock: lock,
		agentKick: make(chan struct{}, 1), standbyKick: make(chan struct{}, 1),
		failed: make(chan struct{}), done: make(chan struct{}),
		pending: new(group), spare: new(group),
	}
	j.work.L, j.idle.L = &j.mu, &j.mu
	j.gate.clock = cfg.Clock
	j.gate.kick = func() { signal(j.agentKick) }
	j.gate.Gate = release.New(cfg.Clock.Boot(), j.gate.stepped)
	j.gate.pace.init(cfg.Clock.Boot())
	j.gate.turn = func() { signal(j.agentKick); signal(j.standbyKick) }
	if err := j.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open journal %s: %w", dir, err), j.closeFiles())
	}
	go j.commit() // owned by the Journal; ends in Close
	return j, nil
}

// load reads what is there, or makes it.
func (j *Journal) load() error {
	if err := errors.Join(durable.SweepTemp(j.fs, j.dir), j.states().sweep()); err != nil {
		return err
	}
	var err error
	j.meta, err = j.readOrMakeMeta()
	if err != nil {
		return err
	}
	log, rec, err := seglog.Open(j.fs, filepath.Join(j.dir, logName), format{}, seglog.Config{
		SegmentBytes: j.meta.SegmentBytes,
		Quarantine:   filepath.Join(j.dir, quarantineName, "torn"),
	})
	if err != nil {
		return err
	}
	j.log, j.recovery = log, Recovery(rec)
	// What the crash left in the page cache only must not be built upon.
	if err := log.Sync(); err != nil {
		return err
	}
	j.setEnd()
	if err := j.confirmBranches(); err != nil {
		return err
	}
	j.drawn.Store(j.meta.Drawn)
	j.gate.Head = j.end
	return nil
}

// setEnd takes the end from the log, all of which is durable.
func (j *Journal) setEnd() {
	end := j.log.End()
	j.end = rpo.Mark{
		Position: tidegate.Position(end),
		Records:  int64(recordNumber(j.log.EndState())),
		Bytes:    int64(end),
	}
	j.written, j.durable = j.end.Position, j.end.Position
}

func (j *Journal) readOrMakeMeta() (meta, error) {
	m, err := readMeta(j.fs, j.dir)
	if err == nil {
		if !j.cfg.ID.IsZero() && j.cfg.ID != m.ID {
			return meta{}, fmt.Errorf("its id is %s, %s is configured: %w", m.ID, j.cfg.ID, tidegate.ErrDiverged)
		}
		if m.SegmentBytes != j.cfg.SegmentBytes {
			return meta{}, fmt.Errorf("its segments have %d bytes, %d are configured: %w", m.SegmentBytes, j.cfg.SegmentBytes, tidegate.ErrConflict)
		}
		return m, nil
	}
	if !errors.Is(err, tidegate.ErrNotFound) {
		return meta{}, err
	}
	// Records without meta are a journal that lost its name, not a new one.
	_, err = j.fs.Stat(filepath.Join(j.dir, logName))
	switch {
	case err == nil:
		return meta{}, &tidegate.CorruptError{Path: filepath.Join(j.dir, metaName), Offset: -1, What: "missing beside a log"}
	case !errors.Is(err, tidegate.ErrNotFound):
		return meta{}, err
	}
	m = meta{Format: metaFormat, Version: metaVersion, ID: j.cfg.ID, SegmentBytes: j.cfg.SegmentBytes}
	if m.ID.IsZero() {
		m.ID, m.Drawn = tidegate.NewID(), true
	}
	return m, m.write(j.fs, j.dir)
}

// confirmBranches drops branches whose record did not survive: it was never
// acknowledged, for the record is durable before anything is.
func (j *Journal) confirmBranches() error {
	kept := j.meta.Branches
	for len(kept) > 0 {
		ok, err := j.confirmed(kept[len(kept)-1])
		if err != nil {
			return err
		}
		if ok {
			break
		}
		kept = kept[:len(kept)-1]
	}
	if len(kept) == len(j.meta.Branches) {
		return nil
	}
	j.meta.Branches = kept
	return j.meta.write(j.fs, j.dir)
}

func (j *Journal) confirmed(b Branch) (bool, error) {
	if b.Position < j.First() {
		return true, nil // trimmed since: it was durable then
	}
	if b.Position >= j.end.Position {
		return false, nil
	}
	r, err := j.NewReader(b.Position)
	if err != nil {
		return false, err
	}
	defer func() { _ = r.Close() }() // only read
	rec, ok, err := r.TryNext()
	if err != nil || !ok || rec.Kind != KindBranch {
		return false, err
	}
	got, err := parseBranch(rec)
	return got == b, err
}

// Close makes what was appended durable and releases the journal; later calls
// fail with tidegate.ErrStopped. Run must have returned.
func (j *Journal) Close() error {
	j.mu.Lock()
	j.closing = true
	j.work.Broadcast()
	j.mu.Unlock()
	<-j.done
	j.gate.stop(errClosed)
	j.mu.Lock()
	err := j.err
	if err == errClosed { //nolint:errorlint // identity: closed by us, not failed
		err = nil
	}
	again := j.released
	j.released = true
	j.mu.Unlock()
	if again {
		return nil
	}
	return errors.Join(err, j.compare.close(), j.closeFiles())
}

var errClosed = fmt.Errorf("journal is closed: %w", tidegate.ErrStopped)

func (j *Journal) closeFiles() error {
	var err error
	if j.log != nil {
		err = j.log.Close()
	}
	return errors.Join(err, j.lock.Close())
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is due anyway
	}
}

// Recovery returns what Open found.
func (j *Journal) Recovery() Recovery { return j.recovery }

// Dir returns the journal's directory, absolute.
func (j *Journal) Dir() string { return j.dir }

// Lineage returns the journal's history id and its branches.
func (j *Journal) Lineage() tidegate.Lineage {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.meta.lineage()
}

// First returns the position of the oldest record that is kept.
func (j *Journal) First() tidegate.Position { return tidegate.Position(j.log.First()) }

// End returns the end of what was appended, durable or not.
func (j *Journal) End() tidegate.Position { return j.endMark().Position }

// Records returns how many records the journal has had from its beginning to
// its end, trimmed ones included.
func (j *Journal) Records() uint64 { return uint64(j.endMark().Records) }

func (j *Journal) endMark() rpo.Mark {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.end
}

// Durable returns the end of what is fsynced here.
func (j *Journal) Durable() tidegate.Position {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.durable
}

// Activate says that the service has become the active one here. From now on
// nothing is released beyond the DR site's durable position, until that has
// reached today's end of the journal: somebody may have released up to there.
// Again while active it does nothing. tidegate.ErrFenced if another site holds
// the stream.
func (j *Journal) Activate() error {
	if err := j.own(); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.gate.activate(j.end)
}

// Deactivate takes Activate back. Waiters in Await fail with [ErrInactive].
func (j *Journal) Deactivate() { j.gate.deactivate(ErrInactive) }

// Exposure returns what a disaster would lose now, as this end knows it; Known
// is false unless the service is active here.
func (j *Journal) Exposure() rpo.Exposure { return j.gate.exposure() }
