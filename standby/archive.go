package standby

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/snapshot"
)

// archiveBuffers is how many segments of a node are uploaded at a time, which is the
// memory it takes in segments, however many streams there are.
const archiveBuffers = 2

// ArchiveStatus is what a node knows of a stream's archive.
type ArchiveStatus struct {
	Archivist bool           // this node uploads
	Archived  *tidegate.Seq  // everything up to it that this log has is archived
	Behind    *time.Duration // age of the oldest committed batch that is not archived; 0: there is none
	Bytes     *int64         // of the source's log, committed and not archived
	Holes     []archive.Range
	// LastSuccess is when the bucket did last what this node asked; zero: never in this run.
	LastSuccess time.Time
	Err         string // why it does not, or why nothing is uploaded; empty if all is well
}

// archiveSource is a stream as its archive's writer sees it.
type archiveSource struct{ s *stream }

// openArchive makes the stream's writer, where the node has an archive.
func (s *stream) openArchive() {
	if s.n.bucket == nil {
		return
	}
	s.archive = archive.NewWriter(s.id, archive.Mirror{Node: s.meta.Node, Incarnation: s.meta.Incarnation}, s.n.cfg.Archive, archive.Deps{
		Bucket: s.n.bucket, Source: archiveSource{s}, Log: s.log, Buffers: s.n.buffers,
		Clock: s.n.deps.Clock, Logger: s.lg, Meter: s.n.metrics,
	})
}

// keepArchived uploads until ctx ends.
func (s *stream) keepArchived(ctx context.Context) {
	if s.archive != nil {
		s.archive.Run(ctx)
	}
}

// Standing implements [archive.Source].
func (a archiveSource) Standing() archive.Standing {
	s := a.s
	s.mu.Lock()
	defer s.mu.Unlock()
	term := s.core.Adopted()
	return archive.Standing{
		Follows: s.settled() && s.view.Name != "", Epoch: term.Epoch, Start: term.StartSeq, Commit: s.core.ApplyTo(),
		Info: archive.StreamInfo{Service: s.view.Service, Name: s.view.Name, Store: s.view.store()},
		Gaps: s.view.Gaps,
	}
}

// Bases implements [archive.Source].
func (a archiveSource) Bases(context.Context) (*snapshot.Store, []snapshot.Listed) {
	s := a.s
	if s.bases == nil {
		return nil, nil
	}
	return s.bases.store, slices.DeleteFunc((Bases{s}).Bases(), func(l snapshot.Listed) bool {
		_, err := s.keptFrom(l.Info)
		return err != nil // not of the log, or its end is not committed yet
	})
}

// archivePeer stands for the archive among those that a log is kept for. No node can
// have that name.
const archivePeer tidegate.NodeName = "the archive"

// archivePeer is the archive as one that the log is kept for.
func (s *stream) archivePeer(t *trimming, term fence.Term) []trimPeer {
	if s.archive == nil {
		return nil
	}
	st := s.archive.Status()
	return []trimPeer{{
		Node: archivePeer, Archive: true, Known: st.Known && st.Epoch == term.Epoch && st.Against == nil, Next: st.Next,
		Held: t.heldFor(archivePeer, s.n.deps.Clock.Boot()),
	}}
}

// whyGivenUp says why a rule lets log go that the archive lacks; empty: it does not.
func (s *stream) whyGivenUp(r *trimRule) string {
	least := s.n.cfg.FreeBytesMin
	switch {
	case !slices.Contains(r.Lost, archivePeer):
		return ""
	case r.Tight:
		return fmt.Sprintf("less than %d bytes were left on the disk, and with less than %d batches would be refused", tightTimes*least, least)
	}
	return fmt.Sprintf("it was kept for %s", s.n.cfg.Bases.TrimWait)
}

// archiveStatus returns what is known of the archive; nil where there is none. mu is
// not held: it may read the log.
func (s *stream) archiveStatus() (*ArchiveStatus, []local.Finding) {
	if s.archive == nil {
		return nil, nil
	}
	st := s.archive.Status()
	s.mu.Lock()
	commit, term := s.core.ApplyTo(), s.core.Adopted()
	given := s.givenUp
	if !slices.Contains(s.trimmed.Lost, archivePeer) && len(st.Holes) == 0 && st.Next >= s.log.First() {
		given = "" // somebody else has filled it
	}
	s.mu.Unlock()
	a := &ArchiveStatus{Archivist: st.Archivist, Holes: st.Holes, LastSuccess: st.LastSuccess}
	for _, err := range []error{st.Against, st.Failing} {
		if err != nil {
			a.Err = err.Error()
			break
		}
	}
	if st.Known && st.Epoch == term.Epoch && st.Against == nil {
		seq := st.Next - 1
		a.Archived = &seq
		a.Behind, a.Bytes = s.lags(st.Next, commit)
	}
	return a, s.archiveFindings(&st, a, given)
}

// lags returns how old the batch at next is, by the source's clock and this node's, and
// how much of the source's log is committed from it on; 0 where it is not committed yet,
// nil where it is not known: after a start nobody has told of commits yet. Positions of
// two generations have no distance.
func (s *stream) lags(next, commit tidegate.Seq) (age *time.Duration, size *int64) {
	switch {
	case commit == 0 && s.log.End().Seq > 0:
		return nil, nil
	case next > commit:
		return new(time.Duration), new(int64)
	}
	_, first, err := s.log.At(next)
	if err != nil {
		return nil, nil
	}
	age = new(max(0, s.n.deps.Clock.Wall().Sub(time.Unix(0, first.NewestTime))))
	if _, last, err := s.log.At(commit); err == nil && last.Generation == first.Generation {
		size = new(int64(last.Next - first.First)) //nolint:gosec // a size
	}
	return age, size
}

// Names of what a node says of its archive.
const (
	findingArchiveBehind      = "archive-behind"
	findingArchiveUnreachable = "archive-unreachable"
	findingArchiveDiverged    = "archive-diverged"
	findingArchiveHole        = "archive-hole"
	findingArchiveKept        = "archive-kept"
)

// archiveFindings is what there is to say; given: why log was given up for it,
// empty if none was.
func (s *stream) archiveFindings(st *archive.Status, a *ArchiveStatus, given string) (list []local.Finding) {
	say := func(name string, severity local.Severity, hint, format string, args ...any) {
		list = append(list, local.Finding{Name: name, Severity: severity, Hint: hint, Text: fmt.Sprintf(format, args...)})
	}
	policy := s.n.cfg.Archive
	failing := time.Duration(s.n.deps.Clock.Boot() - st.Since)
	switch {
	case st.Against != nil:
		say(findingArchiveDiverged, local.SeverityCritical, tidegate.HintOf(st.Against), "nothing is archived: %v", st.Against)
	case errors.Is(st.Failing, tidegate.ErrDiverged):
		say(findingArchiveDiverged, local.SeverityCritical, tidegate.HintOf(st.Failing), "not everything is archived: %v", st.Failing)
	case st.Failing != nil && (failing >= policy.Lease || tidegate.ClassOf(st.Failing) == tidegate.Misuse):
		hint := tidegate.HintOf(st.Failing)
		if hint == "" {
			hint = "is it there, and does it let this node read and write? Nothing else waits for it, but for the trimming of logs"
		}
		say(findingArchiveUnreachable, local.SeverityWarning, hint, "for %s nothing could be archived: %v", failing.Round(time.Second), st.Failing)
	}
	if a.Behind != nil && *a.Behind > policy.Late {
		say(findingArchiveBehind, local.SeverityWarning, "compare how much the stream writes with what the bucket takes; `tidegate rates list` says whether it is held back",
			"the oldest committed batch that is not archived is %s old", a.Behind.Round(time.Second))
	}
	if given != "" {
		say(findingArchiveHole, local.SeverityWarning, "bring the archive back: what has been trimmed already will be missing in it for ever, other nodes may still have it",
			"log is given up for the archive, which lacks batches from %d on: %s", st.Next, given)
	}
	if st.Kept != "" {
		say(findingArchiveKept, local.SeverityWarning, "`tidegate window` shows what can be restored; a new base, `tidegate standby base refresh`, stands for those before it",
			"archive.keep lets nothing go: %s", st.Kept)
	}
	for _, h := range st.Holes {
		say(findingArchiveHole, local.SeverityWarning, "only a node whose log still has them can fill it; bases behind it are not touched by it",
			"batches %d to %d are not in the archive, and not in this log", h.First, h.Last)
	}
	return list
}
