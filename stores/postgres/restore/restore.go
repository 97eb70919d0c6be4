package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores"
	"github.com/tidegate/tidegate/stores/postgres/server"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// Config is where the server is restored to, and how it runs there.
type Config struct {
	Home    string          // absolute; what is in it is as in package server
	BinDir  string          // of PostgreSQL; needed by Start alone
	Account *server.Account // nil: the user of this process
	Port    uint16          // 0: 5432
	// Settings are for this machine, by name; they win over the base's.
	Settings map[string]string
	// Follows makes a server that follows the log that is laid, and is promoted by who
	// started it: Finish leaves one that has what came before, Batch may be called after
	// it, and [Restorer.Show] ends that.
	Follows bool
	// SocketDirs, User, Name, Final and Environment are as in [server.Config].
	SocketDirs  []string
	User        string
	Name        string
	Final       map[string]string
	Environment []string
}

// Restorer implements [stores.Restorer].
type Restorer struct {
	server  *server.Server
	follows bool
	what    stores.Restoration
	rec     *server.Recovery

	parser *wal.Parser
	line   wal.Lineage // of the log, where it ends now
	based  wal.Lineage // of the base
	system uint64
	next   wal.LSN // where the next byte of the log belongs
	stop   wal.LSN // where the log ends by its time; 0: it has not come to that
	commit uint64
	newest int64
	last   int64 // as newest, of the last transaction in the log's order, committed or not

	finished bool
}

var _ stores.Restorer = (*Restorer)(nil)

// settingPrefix begins the attributes of a base that are its server's settings.
const settingPrefix = "setting."

// New makes a restorer into a home. It does no I/O.
func New(fsys vfs.FS, clk clock.Clock, log *slog.Logger, cfg Config) (*Restorer, error) {
	bin := cfg.BinDir
	if bin == "" {
		bin = "/usr/lib/postgresql/bin" // it is not looked into
	}
	s, err := server.New(fsys, clk, log, server.Config{
		Home: cfg.Home, BinDir: bin, Account: cfg.Account, Port: cfg.Port, Settings: cfg.Settings,
		SocketDirs: cfg.SocketDirs, User: cfg.User, Name: cfg.Name, Final: cfg.Final, Environment: cfg.Environment,
		// It follows nobody; the directory is its own.
		Upstream: server.Upstream{SocketDir: filepath.Join(cfg.Home, "run")},
	})
	if err != nil {
		return nil, err
	}
	return &Restorer{server: s, follows: cfg.Follows}, nil
}

// Begin implements [stores.Restorer].
func (r *Restorer) Begin(ctx context.Context, what stores.Restoration) (err error) {
	if what.Base == nil {
		return fail(tidegate.Refused, "PostgreSQL needs a base: its log begins in the middle of its life", tidegate.ErrNotFound)
	}
	if p := what.Target.Position; p != 0 && p < what.Base.End {
		return fail(tidegate.Refused, "choose a later target, or an older base", fmt.Errorf("target %s lies before %s, where the base is consistent", wal.LSN(p), wal.LSN(what.Base.End)))
	}
	r.what = what
	if r.line, err = wal.ParseLineage(what.Base.Lineage); err != nil {
		return fmt.Errorf("base: %w", err)
	}
	r.based = r.line
	settings := map[string]string{}
	for name, value := range what.Base.Attrs {
		if name, is := strings.CutPrefix(name, settingPrefix); is {
			settings[name] = value
		}
	}
	r.rec, err = r.server.Recover(ctx, settings)
	return err
}

func fail(class tidegate.Class, hint string, err error) error {
	return &tidegate.Error{Op: "restore postgresql", Class: class, Hint: hint, Err: err}
}

// Have implements [stores.Restorer].
func (r *Restorer) Have(f snapshot.File) (io.ReadCloser, error) {
	have, err := r.rec.Have(f)
	if have == nil {
		return nil, err
	}
	return have, err
}

// Keep implements [stores.Restorer].
func (r *Restorer) Keep(f snapshot.File) error { return r.rec.Keep(f) }

// Create implements [stores.Restorer].
func (r *Restorer) Create(ctx context.Context, f snapshot.File) (io.WriteCloser, error) {
	return r.rec.Create(ctx, f)
}

// Add implements [stores.Restorer].
func (r *Restorer) Add(f snapshot.File) error { return r.rec.Add(f) }

// Log implements [stores.Restorer]. What an earlier attempt laid is parsed again.
func (r *Restorer) Log(context.Context) (tidegate.Position, error) {
	control, err := r.rec.Control()
	if err != nil {
		return 0, err
	}
	r.system = control.System
	r.parser, err = wal.NewParser(wal.Config{SegmentSize: control.SegmentSize, System: control.System, Event: r.event})
	if err != nil {
		return 0, err
	}
	from := wal.LSN(r.what.From)
	r.parser.Begin(from)
	end, line, err := r.rec.Log(control.SegmentSize, from, r.line, func(at wal.LSN, b []byte) (wal.LSN, bool) {
		bad := r.parser.Push(at, b)
		return r.parser.End(), bad == nil
	})
	if err != nil {
		return 0, err
	}
	r.line, r.next = line, end
	// The parser goes on at its last record end, whatever it met behind that.
	if end == from {
		r.parser.Begin(from)
		r.commit, r.newest, r.last = 0, 0, 0
		return from.Position(), nil
	}
	return end.Position(), r.parser.Resume(r.parser.Mark())
}

// event counts transactions, and finds the first that is too late.
func (r *Restorer) event(e wal.Event) {
	if e.Kind != wal.Commit && e.Kind != wal.Abort {
		return
	}
	if t := r.what.Target.Time; t != 0 && e.Time > t && r.stop == 0 {
		r.stop = e.Start
	}
	if r.stop == 0 {
		r.last = e.Time
	}
	if r.stop == 0 && e.Kind == wal.Commit {
		r.commit++
		r.newest = max(r.newest, e.Time)
	}
}

// Batch implements [stores.Restorer].
func (r *Restorer) Batch(_ context.Context, h *batch.Header, payload []byte) (done bool, err error) {
	switch h.Kind {
	case batch.KindData:
		return r.data(h, payload)
	case batch.KindLineage:
		l, err := batch.ParseLineage(payload)
		if err != nil {
			return false, err
		}
		return r.ends(h.First), r.history(l.Lineage)
	case batch.KindGap:
		return false, fail(tidegate.Corrupt, "restore to a position before the gap", fmt.Errorf("log from %s to %s is lost: %w", wal.LSN(h.First), wal.LSN(h.Next), tidegate.ErrGap))
	case batch.KindHeartbeat, batch.KindBarrier, batch.KindHandover:
	}
	return r.ends(h.First), nil
}

// ends reports whether nothing at or beyond p is wanted.
func (r *Restorer) ends(p tidegate.Position) bool {
	return r.stop != 0 || r.what.Target.Position != 0 && p >= r.what.Target.Position
}

func (r *Restorer) history(text tidegate.Lineage) error {
	line, err := wal.ParseLineage(text)
	if err != nil {
		return err
	}
	if line.System != r.system || !line.Extends(r.line, r.next) {
		return fail(tidegate.Corrupt, "", fmt.Errorf("the log goes on as %s, and was %s up to %s: %w", line, r.line, r.next, tidegate.ErrDiverged))
	}
	// A base that reaches beyond where its history was left is never consistent.
	if end := wal.LSN(r.what.Base.End); !line.Extends(r.based, end) {
		return fail(tidegate.Permanent, "restore an older base: `--base`, of those that `tidegate window` lists",
			fmt.Errorf("the base is of %s up to %s, and the log went on as %s: %w", r.based, end, line, tidegate.ErrDiverged))
	}
	if r.finished && line.Text() != r.line.Text() {
		return fail(tidegate.Transient, "", fmt.Errorf("the log goes on as %s, and a server follows it as %s: %w", line, r.line, ErrHistory))
	}
	r.line = line
	if r.finished {
		return nil
	}
	return r.rec.History(line)
}

// ErrHistory says that what a server follows has begun another timeline since it was
// started.
var ErrHistory = errors.New("its history has changed")

func (r *Restorer) data(h *batch.Header, payload []byte) (bool, error) {
	first := wal.LSN(h.First)
	if first > r.next {
		return false, fail(tidegate.Corrupt, "", fmt.Errorf("log from %s to %s is not there: %w", r.next, first, tidegate.ErrGap))
	}
	if skip := r.next - first; skip > 0 { // an earlier attempt laid it
		if skip >= wal.LSN(len(payload)) {
			return r.ends(h.Next), nil
		}
		payload = payload[skip:]
	}
	if to := wal.LSN(r.what.Target.Position); to != 0 {
		payload = payload[:min(uint64(len(payload)), uint64(max(to, r.next)-r.next))]
	}
	if err := r.parser.Push(r.next, payload); err != nil {
		return false, err
	}
	end := r.parser.End()
	if r.stop != 0 {
		end = r.stop
	}
	keep := len(payload) // the first batch of a generation may begin, and end, before the first record
	if r.parser.First() != 0 {
		keep = min(keep, int(max(end, r.next)-r.next))
	}
	n, err := r.rec.Write(payload[:keep])
	r.next += wal.LSN(n)
	return r.ends(h.Next), err
}

// Finish implements [stores.Restorer].
func (r *Restorer) Finish(ctx context.Context, known func(stores.Restored) error) (stores.Restored, error) {
	if need := wal.LSN(r.what.Base.End); r.next < need {
		return stores.Restored{}, fail(tidegate.Refused, "choose a later target, or an older base",
			fmt.Errorf("the log ends at %s, before %s, where the base is consistent", r.next, need))
	}
	out := stores.Restored{
		Position: r.next.Position(), Records: r.commit, Newest: r.newest, Path: r.server.DataDir(),
		Next: "pg_ctl -D " + r.server.DataDir() + " start, as the owner of that directory",
	}
	end := r.rec.Finish
	if r.follows {
		end = r.rec.Follow
	}
	if err := end(ctx, func() error { return known(out) }); err != nil {
		return out, err
	}
	r.finished = true
	return out, nil
}

// Show makes what Batch took since Finish durable, and visible to the server that follows.
// It returns where that ends, a record's end; no Batch comes after it.
func (r *Restorer) Show() (wal.LSN, error) { return r.next, r.rec.Show() }

// Last is when the last transaction in the log that was laid ended, committed or not, by
// the source's clock; zero: there was none. A server that has replayed that log says it of
// itself (pg_last_xact_replay_timestamp).
func (r *Restorer) Last() time.Time {
	if r.last == 0 {
		return time.Time{}
	}
	return time.Unix(0, r.last).UTC()
}

// Lineage is the log's, where it ends.
func (r *Restorer) Lineage() tidegate.Lineage { return r.line.Text() }

// Server is the restored one; to be used after Finish.
func (r *Restorer) Server() *server.Server { return r.server }

// Abort implements [stores.Restorer].
func (r *Restorer) Abort() error {
	if r.rec == nil {
		return nil
	}
	return r.rec.Abort()
}

// Start starts the restored server, and waits until it has replayed its log and takes
// writes. It makes sure that the server's own history forks where the log ended.
func (r *Restorer) Start(ctx context.Context) (server.Promotion, error) {
	p, err := r.server.Complete(ctx)
	if err != nil {
		return p, err
	}
	if r.next != 0 && p.Fork < r.next {
		return p, &tidegate.Error{
			Op: "recover server in", Subject: r.server.DataDir(), Class: tidegate.Corrupt,
			Err:  fmt.Errorf("recovery ended at %s, and the log at %s: %w", p.Fork, r.next, tidegate.ErrDiverged),
			Hint: "see " + r.server.LogPath(),
		}
	}
	return p, nil
}

// Kind is the store's kind in streams and archives.
const Kind = "postgres"

// AttrRelease is the attribute of a base that names its server's release.
const AttrRelease = "server_version"

// FindBin finds the programs of a base's major release where Debian's packages put
// them.
func FindBin(base snapshot.Info) (string, error) {
	major, _, _ := strings.Cut(base.Attrs[AttrRelease], ".")
	dir := filepath.Join("/usr/lib/postgresql", major, "bin")
	if info, err := vfs.OS().Stat(filepath.Join(dir, "postgres")); major == "" || err != nil || info.Dir {
		return "", &tidegate.Error{
			Op: "find postgres", Subject: "of release " + base.Attrs[AttrRelease], Class: tidegate.Misuse, Err: fmt.Errorf("not in %s: %w", dir, tidegate.ErrNotFound),
			Hint: "install it, or name its directory: `--bin-dir`",
		}
	}
	return dir, nil
}

// ParsePosition reads a position as people write it, 16/B374D848 or 16 hexadecimal
// digits.
func ParsePosition(s string) (tidegate.Position, error) {
	if lsn, err := wal.ParseLSN(s); err == nil {
		return lsn.Position(), nil
	}
	return tidegate.ParsePosition(s)
}

// ShowPosition is ParsePosition's other way.
func ShowPosition(p tidegate.Position) string { return wal.LSN(p).String() }

// Conninfo is how this process reaches the started server, as libpq takes it.
func (r *Restorer) Conninfo() string { return r.server.Conninfo() }

// Stop ends the started server.
func (r *Restorer) Stop(ctx context.Context) error {
	return errors.Join(r.server.Stop(ctx, server.StopFast))
}
