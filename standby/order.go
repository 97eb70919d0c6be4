package standby

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/local"
)

// order is what a library is told, and up to which batch it is fed.
type order struct {
	role local.Role
	upTo tidegate.Seq
	// prove: its journal must be a beginning of the log before it hears of this, and
	// only then is it fed.
	prove bool
}

// place is where the stream is written, as seen from here.
type place uint8

const (
	placeUnknown place = iota // a change is under way, or the gate has not told of the adopted epoch
	placeHere                 // by the agent on this very node
	placeSite                 // by another node of this site
	placeAway                 // at another site
)

// placeOf returns where the holder of an adopted term is; the record must be of
// that term. Nobody else's word will do: to be told to follow costs a primary its
// cluster.
func (s *stream) placeOf(term fence.Term, rec *fence.EpochRecord) place {
	switch {
	case rec == nil || rec.ActiveEpoch != term.Epoch || rec.State != fence.StateActive && rec.State != fence.StateSwitching:
		return placeUnknown
	case home(rec).Node == s.n.cfg.Node:
		return placeHere
	case home(rec).Site == s.n.cfg.Site:
		return placeSite
	}
	return placeAway
}

// part decides what the library is told; ok is false until it has said whether it
// is active.
func (l *library) part() (o order, ok bool, err error) {
	s := l.s
	s.mu.Lock()
	term, rec, pro := s.core.Adopted(), s.view.Record, s.apply.promotion
	o.upTo = s.core.ApplyTo()
	heard, active, reached := l.heard, l.active, l.progress.Applied
	resting := s.view.partOf(s.n.cfg.Node, s.n.cfg.Site) == partResting
	following, source := l.told.State == local.StateFollow, s.view.sourceOf(s.n.cfg.Node)
	s.mu.Unlock()
	if !heard {
		return o, false, nil
	}
	o.role = local.Role{State: local.StateIdle, Epoch: term.Epoch, Holder: term.Holder, Lineage: l.lineage, Source: source}
	where := s.placeOf(term, rec)
	switch {
	case pro != nil && pro.promise == (fence.Promise{Epoch: term.Epoch, Holder: term.Holder}):
		o.role.ApplyTo, o.prove = pro.at, !active
		if active || reached >= pro.at {
			o.role.State, o.role.Branch = local.StateActive, pro.at
			return o, true, nil
		}
		o.role.State, o.upTo = local.StateFollow, max(o.upTo, pro.head.Seq)
		return o, true, nil
	case term.Epoch == 0, resting, where == placeHere:
		// Nobody to follow: the service here is the source, or belongs to it, or
		// there is none yet.
		return o, true, nil
	case where == placeAway && active:
		// It was the source, and does not know better yet. First it stands down: what
		// it has written is final then, and can be compared.
		o.role.State = local.StateFollow
		return o, true, s.noteFollower()
	case active:
		return o, true, nil
	case where == placeAway:
		err = s.noteFollower()
	case following:
		// What it was told while the writer was known goes on while it is not, and
		// while the writer is a neighbour.
	case where != placeSite || !s.follower():
		// A neighbour of the writer that has never followed is perhaps a part of the
		// source, such as its cluster's second node: it gets the log from there.
		return o, true, nil
	}
	if err != nil {
		return o, false, err
	}
	o.role.State, o.prove = local.StateFollow, true
	o.role.ApplyTo, err = s.positionAt(o.upTo)
	return o, true, err
}

// followerFile says that the service beside this node was told to follow another
// site: from then on it is no part of any source, until it is promoted.
const followerFile = "follower"

func (s *stream) follower() bool { return s.followed.Load() }

// noteFollower writes down, before the service is told for the first time, that it
// follows.
func (s *stream) noteFollower() error {
	if s.followed.Load() {
		return nil
	}
	text := []byte("The service beside this node has followed another site.\n")
	if err := durable.WriteFile(s.n.deps.FS, filepath.Join(s.dir, followerFile), text); err != nil {
		return fmt.Errorf("note that the service follows: %w", err)
	}
	s.followed.Store(true)
	return nil
}

// attendedFile says that there is a service beside this node that may need the log: one
// that has been connected, or that has written the stream. It may come back any time,
// and with less than the log has.
const attendedFile = "attended"

// attend writes down that there is a service beside this node.
func (s *stream) attend() error {
	s.attending.Lock()
	defer s.attending.Unlock()
	s.attended.Store(true) // in this run, whatever becomes of the file
	if s.noted {
		return nil
	}
	text := []byte("A service beside this node has been connected, or has written the stream. No log goes that it has not applied.\n")
	if err := durable.WriteFile(s.n.deps.FS, filepath.Join(s.dir, attendedFile), text); err != nil {
		return fmt.Errorf("note that there is a service: %w", err)
	}
	s.noted = true
	return nil
}

// attendSource is attend where a view says that the stream is written from this node.
// On a full disk it is for the next view to note.
func (s *stream) attendSource(v StreamView) error {
	rec := v.Record
	if s.fault != nil || rec == nil || rec.ActiveEpoch == 0 || home(rec).Node != s.n.cfg.Node {
		return nil
	}
	err := s.attend()
	if errors.Is(err, tidegate.ErrFull) {
		s.lg.Warn("log is kept for a service, and that was not written down", keyErr, err)
		return nil
	}
	return err
}

// readService looks at the start what is known of a service from before.
func (s *stream) readService() error {
	for name, known := range map[string]*atomic.Bool{followerFile: &s.followed, attendedFile: &s.attended} {
		there, err := exists(s.n.deps.FS, filepath.Join(s.dir, name))
		if err != nil {
			return err
		}
		known.Store(there)
	}
	s.noted = s.attended.Load()
	return nil
}

// hasWarm reports whether a service beside this node may need the log.
func (s *stream) hasWarm() bool { return s.attended.Load() || s.followed.Load() }
