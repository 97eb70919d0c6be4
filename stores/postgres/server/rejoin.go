package server

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/quarantine"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// ErrNeedsBase is for data that cannot be brought to the log it should follow:
// move it aside and restore a base.
var ErrNeedsBase = errors.New("needs a new base")

// RejoinPlan says how a server that was a primary becomes a follower.
type RejoinPlan struct {
	// Lineage is that of the log to follow from now on.
	Lineage wal.Lineage
	// Source connects, in libpq's form, to the server that writes that log, as a
	// role that pg_rewind may use and that may CHECKPOINT. It is seen in the list
	// of processes: name a passfile, not a password. Empty: there is none, and what
	// has diverged needs a new base.
	Source string
	// Quarantine is a directory, absolute, that the divergent log is copied to. It
	// is made when there is any, and is this server's alone.
	Quarantine string
	// About is what is known of the stream, for the summary there; the rest of it is
	// filled in.
	About quarantine.Summary
}

// Rejoined is what came of it.
type Rejoined struct {
	Diverged *wal.Summary // of what this data had beyond the parting; nil when there was nothing
	Rewound  bool
}

// Rejoin turns the data of a server that does not run, and that served, into a
// follower's. Where its log is the beginning of the one to follow, that is all.
// Where it went another way, the log from the parting on is copied into
// quarantine, with a summary, before anything is changed; then pg_rewind takes
// the data back. An error that wraps [ErrNeedsBase] says that this cannot be done,
// and that tables and log are as they were, though the configuration may be a
// follower's already, or that a rewind was cut off; what was copied into quarantine is there and is in the Rejoined. Rejoin may be called again
// after every other error. A follower's data is left as it is.
func (s *Server) Rejoin(ctx context.Context, plan RejoinPlan) (Rejoined, error) {
	if err := s.take(ctx); err != nil {
		return Rejoined{}, err
	}
	defer s.give()
	out, err := s.rejoin(ctx, plan)
	if err != nil {
		hint := tidegate.HintOf(err)
		if errors.Is(err, ErrNeedsBase) {
			hint = hintRebuild
		}
		return out, &tidegate.Error{Op: "make a follower of", Subject: s.DataDir(), Class: tidegate.ClassOf(err), Hint: hint, Err: err}
	}
	return out, nil
}

func (s *Server) rejoin(ctx context.Context, plan RejoinPlan) (Rejoined, error) {
	if s.cfg.managed() {
		// A manager that has seen the server end by itself may start it amid all this.
		if err := s.stopService(ctx, StopImmediate); err != nil {
			return Rejoined{}, err
		}
	}
	running, err := s.Running()
	if err == nil && running {
		err = fmt.Errorf("the server runs: %w", tidegate.ErrConflict)
	}
	if err != nil {
		return Rejoined{}, err
	}
	is, ok, err := s.Restored()
	switch {
	case err != nil:
		return Rejoined{}, err
	case !ok:
		return Rejoined{}, fmt.Errorf("no data: %w", ErrNeedsBase)
	case is == Follow:
		// Its signal is written when a rewind has gone through, not before.
		return Rejoined{}, durable.RemoveTree(s.fsys, s.rewinding(""))
	}
	switch half, done, err := s.cutOff(); {
	case err != nil:
		return Rejoined{}, err
	case done:
		return Rejoined{Rewound: true}, s.rewound()
	case half:
		return Rejoined{}, fmt.Errorf("a rewind was cut off: %w", ErrNeedsBase)
	}
	if err := s.makeHome(); err != nil {
		return Rejoined{}, err
	}
	tail, err := s.divergence(plan.Lineage)
	if err != nil || tail == nil {
		return Rejoined{}, errors.Join(err, s.followFromNow(err))
	}
	out := Rejoined{Diverged: &tail.summary}
	if err := s.quarantine(ctx, tail, plan.Quarantine, plan.About); err != nil {
		return Rejoined{}, err
	}
	if err := s.rewind(ctx, plan); err != nil {
		return out, err
	}
	out.Rewound = true
	return out, s.rewound()
}

// followFromNow makes the data a follower's, unless there was an error before.
func (s *Server) followFromNow(before error) error {
	if before != nil {
		return nil
	}
	if err := s.configure(s.DataDir(), Follow, nil); err != nil {
		return err
	}
	return s.replace(s.inData(standbySignal), nil)
}

// rewinding is a path within home/rewinding, which is there while a rewind has
// begun and not ended. It cannot be in the data: pg_rewind removes what the
// source has not.
func (s *Server) rewinding(name string) string { return filepath.Join(s.cfg.Home, rewindingDir, name) }

// Forget is for data that was moved to a place within the home: what was noted of
// a rewind of it goes along.
func (s *Server) Forget(moved string) error {
	half, err := s.exists(s.rewinding(""))
	if err != nil || !half {
		return err
	}
	return s.fsys.Rename(s.rewinding(""), filepath.Join(moved, rewindingDir))
}

const rewindDone = "done"

func (s *Server) cutOff() (half, done bool, err error) {
	if half, err = s.exists(s.rewinding("")); err != nil || !half {
		return false, false, err
	}
	done, err = s.exists(s.rewinding(rewindDone))
	return half, done, err
}

// configFiles are the data's own configuration, which a rewind replaces by the
// source's: another machine's.
var configFiles = []string{configFile, autoConfigFile, hbaFile, identFile}

// rewind runs pg_rewind. Nothing is changed before home/rewinding is there,
// but that a server that crashed is brought to an orderly end.
func (s *Server) rewind(ctx context.Context, plan RejoinPlan) error {
	c, err := s.Control()
	if err != nil {
		return err
	}
	switch {
	case plan.Source == "":
		return fmt.Errorf("there is no server to rewind from: %w", ErrNeedsBase)
	case !c.Checksums && !c.HintBits:
		return fmt.Errorf("the data has neither checksums nor wal_log_hints: %w", ErrNeedsBase)
	}
	if err := s.sourceReady(ctx, plan); err != nil {
		return err
	}
	if err := s.configure(s.DataDir(), Follow, nil); err != nil {
		return err
	}
	if c.State != StateShutDown {
		// In a session of its own the server ends recovery, writes a checkpoint and ends.
		args := append([]string{"--single", "-F"}, s.commandLine()...)
		if out, err := s.tooled(ctx, "postgres", append(args, "template1")...); err != nil {
			return fmt.Errorf("recover before a rewind: %w; it says: %s: %w", err, out, ErrNeedsBase)
		}
	}
	args := []string{"-D", s.DataDir(), "--source-server=" + plan.Source}
	if out, err := s.tooled(ctx, "pg_rewind", append(args, "--dry-run")...); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("pg_rewind --dry-run: %w; it says: %s: %w", err, out, ErrNeedsBase)
	}
	if err := s.keepConfig(); err != nil {
		return err
	}
	out, err := s.tooled(ctx, "pg_rewind", args...)
	if err != nil {
		return fmt.Errorf("pg_rewind: %w; it says: %s: %w", err, out, ErrNeedsBase)
	}
	return durable.WriteFile(s.fsys, s.rewinding(rewindDone), []byte(out+"\n"))
}

// keepConfig copies the configuration into home/rewinding.
func (s *Server) keepConfig() error {
	if err := durable.MkdirAll(s.fsys, s.rewinding("")); err != nil {
		return err
	}
	for _, name := range configFiles {
		text, err := readFile(s.fsys, s.inData(name))
		if err != nil {
			return err
		}
		if err := durable.WriteFile(s.fsys, s.rewinding(name), text); err != nil {
			return err
		}
	}
	return nil
}

// rewound ends a rewind that went through.
func (s *Server) rewound() error {
	for _, name := range configFiles {
		text, err := readFile(s.fsys, s.rewinding(name))
		if err != nil {
			return err
		}
		if err := s.replace(s.inData(name), text); err != nil {
			return err
		}
	}
	if err := s.followFromNow(nil); err != nil {
		return err
	}
	if err := durable.RemoveTree(s.fsys, s.rewinding("")); err != nil {
		return err
	}
	return s.fsys.SyncDir(s.cfg.Home)
}

// sourceReady sees to it that the source's control file names its new timeline:
// before a promoted server's first checkpoint pg_rewind takes it for one that
// did not leave the old timeline, and says that no rewind is required.
func (s *Server) sourceReady(ctx context.Context, plan RejoinPlan) error {
	conn, err := pgconn.Connect(ctx, plan.Source)
	if err != nil {
		return &tidegate.Error{Op: "connect to", Subject: "the source of a rewind", Class: tidegate.Transient, Err: err}
	}
	_, err = ask(ctx, conn, "checkpoint")
	var rows [][][]byte
	if err == nil {
		rows, err = ask(ctx, conn, "select pg_is_in_recovery(), timeline_id, (select system_identifier from pg_control_system()) from pg_control_checkpoint()")
	}
	err = errors.Join(err, conn.Close(ctx))
	if err != nil {
		return fmt.Errorf("ask the source of a rewind: %w", err)
	}
	want := fmt.Sprintf("f %s %d", plan.Lineage.Timeline(), plan.Lineage.System)
	got := string(rows[0][0]) + " " + string(rows[0][1]) + " " + string(rows[0][2])
	if got != want {
		return fmt.Errorf("source of the rewind is not the server of this lineage: in recovery, timeline, system are %s, want %s", got, want)
	}
	return nil
}

// tooled runs one of PostgreSQL's programs as the account, and returns what it
// printed, on one line.
func (s *Server) tooled(ctx context.Context, name string, args ...string) (string, error) {
	cmd := s.command(ctx, name, args...)
	out, err := cmd.CombinedOutput()
	return strings.Join(strings.Fields(string(out)), " "), err
}
