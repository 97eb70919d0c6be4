package standby

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
)

// BasePolicy says when the bases of streams are renewed, and what is kept. The zero
// value means the defaults.
type BasePolicy struct {
	// RefreshEvery is the age at which the newest base is renewed from the warm
	// service beside this node; 0: age alone is no reason.
	RefreshEvery time.Duration
	// RefreshLog is how much of the source's log, in bytes, may follow the newest
	// base before it is renewed. Default 64 GiB.
	RefreshLog int64
	// RefreshOff leaves it to the operator's command.
	RefreshOff bool
	// Keep is how many bases of a generation stay of use: the bases before them may go,
	// and the log behind the oldest of them. Default 2.
	Keep int
	// TrimExtra is how much of the log is always kept, in bytes. Default 1 GiB.
	TrimExtra int64
	// TrimWait is for how long log is kept for a node that lacks it, before that has
	// to begin anew at a base. It begins anew with the process. Default 72 h.
	TrimWait time.Duration
	// TrimOff keeps everything: the log, and bases.
	TrimOff bool
	// LookEvery is how often is looked whether anything is due. Default 10 s.
	LookEvery time.Duration
}

// Defaults of a [BasePolicy].
const (
	RefreshLogDefault = 64 << 30
	BaseLookDefault   = 10 * time.Second
	BasesKeptDefault  = 2
	TrimExtraDefault  = 1 << 30
	TrimWaitDefault   = 72 * time.Hour
)

// SetDefaults fills the fields that are zero.
func (p BasePolicy) SetDefaults() BasePolicy {
	if p.RefreshLog == 0 {
		p.RefreshLog = RefreshLogDefault
	}
	if p.Keep == 0 {
		p.Keep = BasesKeptDefault
	}
	if p.TrimExtra == 0 {
		p.TrimExtra = TrimExtraDefault
	}
	if p.TrimWait == 0 {
		p.TrimWait = TrimWaitDefault
	}
	if p.LookEvery == 0 {
		p.LookEvery = BaseLookDefault
	}
	return p
}

// Validate reports every broken rule.
func (p BasePolicy) Validate() error {
	var errs []error
	if p.RefreshEvery < 0 {
		errs = append(errs, fmt.Errorf("refresh.every: want 0 or more (got %s)", p.RefreshEvery))
	}
	if p.RefreshLog < 0 {
		errs = append(errs, fmt.Errorf("refresh.log: want 0 or more (got %d)", p.RefreshLog))
	}
	if p.Keep < 1 {
		errs = append(errs, fmt.Errorf("keep: want 1 or more (got %d)", p.Keep))
	}
	if p.TrimExtra < 0 {
		errs = append(errs, fmt.Errorf("trim.extra: want 0 or more (got %d)", p.TrimExtra))
	}
	if p.TrimWait < 0 {
		errs = append(errs, fmt.Errorf("trim.wait: want 0 or more (got %s)", p.TrimWait))
	}
	if p.LookEvery < 0 {
		errs = append(errs, fmt.Errorf("look_every: want more than 0 (got %s)", p.LookEvery))
	}
	return errors.Join(errs...)
}

// BaseSource is a warm service that a base can be taken of.
type BaseSource interface {
	// Base takes a base of the service as it is now, as stores.Based does. Everything
	// in it was committed. tidegate.ErrConflict when it would be no newer than the
	// newest there is.
	Base(ctx context.Context, w snapshot.Writer, total func(bytes int64)) (snapshot.Base, error)
}

// refreshFileName is the operator's wish for a new base, in the directory of the
// stream's bases.
const refreshFileName = "refresh"

// findingRefresh names what the node says when a base could not be renewed.
const findingRefresh = "base-refresh"

// AskRefresh asks the node whose data directory this is, which may be running, to
// renew a stream's base. It goes on asking until that was tried; see [RefreshAsked].
func AskRefresh(fsys vfs.FS, dataDir string, stream tidegate.StreamID) error {
	dir := filepath.Join(streamDir(dataDir, stream), baseDirName)
	if _, err := fsys.Stat(dir); err != nil {
		return noBases("renew base of", stream, err)
	}
	return durable.WriteFile(fsys, filepath.Join(dir, refreshFileName), []byte("A new base was asked for.\n"))
}

// RefreshAsked reports whether a base was asked for and not tried yet.
func RefreshAsked(fsys vfs.FS, dataDir string, stream tidegate.StreamID) (bool, error) {
	_, err := fsys.Stat(filepath.Join(streamDir(dataDir, stream), baseDirName, refreshFileName))
	if errors.Is(err, tidegate.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// ListBases returns the bases in the data directory of a node, which may be running.
func ListBases(fsys vfs.FS, dataDir string, stream tidegate.StreamID) ([]snapshot.Listed, error) {
	dir := filepath.Join(streamDir(dataDir, stream), baseDirName)
	if _, err := fsys.Stat(dir); err != nil {
		return nil, noBases("list bases of", stream, err)
	}
	for try := 1; ; try++ {
		store, err := snapshot.Open(fsys, dir, snapshot.StoreConfig{})
		if err != nil {
			return nil, err
		}
		list, faults := store.Bases(), store.Faults()
		store.Close()
		if len(faults) == 0 || try == listTries {
			return list, nil
		}
	}
}

// listTries is how often bases are looked for where something seems to be missing: the
// node that runs may be moving it from one file to another.
const listTries = 3

func noBases(op string, stream tidegate.StreamID, err error) error {
	return &tidegate.Error{
		Op: op, Subject: stream.String(), Class: tidegate.Misuse, Err: err,
		Hint: "the node must have been told of the stream by a gate, and its store must be one that has bases; see `tidegate streams list`",
	}
}

// refreshFacts is what decides whether a base is due. Wall times are of this
// machine; what is not known is no reason.
type refreshFacts struct {
	asked bool
	held  bool      // there is a base to be renewed, that the log goes on from
	taken time.Time // the newest was
	now   time.Time
	log   int64 // bytes of the source's log that are committed behind its start
}

// refreshDue reports whether, and for people why, a base is due.
func (p BasePolicy) refreshDue(f refreshFacts) (why string, due bool) {
	switch {
	case f.asked:
		return "it was asked for", true
	case !f.held || p.RefreshOff:
		return "", false
	case p.RefreshEvery > 0 && f.now.Sub(f.taken) >= p.RefreshEvery:
		return fmt.Sprintf("the newest is of %s", f.taken.UTC().Format(time.RFC3339)), true
	case f.log >= p.RefreshLog:
		return fmt.Sprintf("%d MiB of log follow the newest", f.log>>20), true
	}
	return "", false
}

// RefreshBases renews the bases of a stream from src, the warm service beside this
// node, by the node's policy and when the operator asks, until ctx ends. Other
// nodes of the stream take them from here.
func (n *Standby) RefreshBases(ctx context.Context, service tidegate.ServiceName, name tidegate.StreamName, src BaseSource) error {
	tick := time.NewTicker(n.cfg.Bases.LookEvery)
	defer tick.Stop()
	backoff := retry.Policy{First: n.cfg.Bases.LookEvery, Max: time.Hour}.Backoff()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		b, err := n.Bases(service, name)
		if err != nil {
			continue // not told of the stream yet
		}
		if b.s.renew(ctx, src, backoff) != nil {
			return nil
		}
	}
}

// renew takes a base of src if one is due, and waits after one that could not be
// taken. A src of nil can not be asked now. Its error is that ctx has ended.
func (s *stream) renew(ctx context.Context, src BaseSource, backoff *retry.Backoff) error {
	if src == nil {
		return ctx.Err()
	}
	tried, err := s.refreshIfDue(ctx, src)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case !tried:
	case err == nil:
		backoff.Reset()
	default:
		return backoff.Wait(ctx)
	}
	return nil
}

// refreshIfDue takes a base if one is due. What was asked for is tried once.
func (s *stream) refreshIfDue(ctx context.Context, src BaseSource) (tried bool, err error) {
	f, err := s.refreshFacts()
	if err != nil {
		return false, err
	}
	why, due := s.n.cfg.Bases.refreshDue(f)
	if _, keeps := src.(cannot); keeps && !f.asked {
		return false, nil // its log is kept: nobody need be told at every look
	}
	if !due {
		return false, nil
	}
	s.lg.Info("taking a base of the warm service", "because", why)
	began := s.n.deps.Clock.Boot()
	l, err := s.refreshBase(ctx, src)
	if ctx.Err() != nil {
		return true, ctx.Err()
	}
	s.mu.Lock()
	s.bases.failed = err
	s.mu.Unlock()
	if err != nil {
		s.lg.Warn("no new base", keyErr, err, "hint", tidegate.HintOf(err))
	} else {
		s.lg.Info("base renewed", "generation", uint32(l.Generation), "start", l.Start.String(), "end", l.End.String(), "bytes", l.Bytes,
			"took", time.Duration(s.n.deps.Clock.Boot()-began).String())
	}
	if f.asked {
		path := filepath.Join(s.bases.dir, refreshFileName)
		if rerr := s.n.deps.FS.Remove(path); rerr != nil && !errors.Is(rerr, tidegate.ErrNotFound) {
			s.lg.Warn("forget what was asked", keyErr, rerr) // it is tried once more
		}
	}
	return true, err
}

func (s *stream) refreshFacts() (f refreshFacts, err error) {
	_, err = s.n.deps.FS.Stat(filepath.Join(s.bases.dir, refreshFileName))
	f.asked = err == nil
	if err != nil && !errors.Is(err, tidegate.ErrNotFound) {
		return f, err
	}
	f.now = s.n.deps.Clock.Wall()
	var start tidegate.Position
	switch list := (Bases{s}).useful(); {
	case len(list) > 0:
		newest := list[len(list)-1]
		f.held, f.taken, start = true, time.Unix(0, newest.Taken), newest.Start
	case s.bases.rooted:
		f.held = true // the stream's beginning, which is as old as it can be
	default:
		return f, nil
	}
	s.mu.Lock()
	upTo := s.core.ApplyTo()
	s.mu.Unlock()
	at, err := s.positionAt(upTo)
	if err == nil && at > start {
		f.log = int64(at - start)
	}
	return f, err
}

// refreshBase takes a base of the warm service into the store and counts on it.
// It is rated by what is read, as the rest of the node's copying is by what arrives.
func (s *stream) refreshBase(ctx context.Context, src BaseSource) (l snapshot.Listed, err error) {
	info, err := s.refreshable()
	if err != nil {
		return l, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t := &taking{
		generation: info.Generation, opened: info.Opened, from: "the warm service", began: s.n.deps.Clock.Boot(),
		end: cancel, done: make(chan struct{}),
	}
	in, err := s.bases.beginIdle(ctx, t)
	if err != nil {
		return l, err
	}
	defer s.bases.finish(t, in)
	sink := paced{in, func(ctx context.Context, bytes int) error {
		if s.n.full.Load() {
			return s.n.refuseFull()
		}
		return s.n.limits.copying.Wait(ctx, bytes)
	}}
	m, err := snapshot.Build(ctx, sink, snapshot.BuildConfig{Meter: &t.meter}, info, func(ctx context.Context, w snapshot.Writer) (snapshot.Base, error) {
		b, err := src.Base(ctx, w, t.meter.SetTotal)
		if err != nil {
			return b, err
		}
		return b, s.sayEpoch(&b, info.Generation)
	})
	if err != nil {
		return l, errors.Join(context.Cause(ctx), err)
	}
	m.Taken = s.n.deps.Clock.Wall().UnixNano()
	raw, _, err := m.Encode()
	if err != nil {
		return l, err
	}
	l, err = in.Commit(ctx, raw, func(info snapshot.Info) error {
		_, err := s.keptFrom(info)
		return err
	})
	if errors.Is(err, tidegate.ErrStopped) {
		s.n.stop(err) // a sync has failed: what is on the disk is not known any more
	}
	if err != nil {
		return l, err
	}
	return l, s.bases.hold(l)
}

// sayEpoch has a base that is complete where it begins say of which log it was taken;
// that it is this one is for keptFrom to find out.
func (s *stream) sayEpoch(b *snapshot.Base, g tidegate.Generation) error {
	if b.Start != b.End || b.Start == 0 {
		return nil
	}
	_, h, err := s.batchOf(g, b.Start-1)
	if err != nil {
		return s.notOfLog(fmt.Errorf("what led to the base: %w", err))
	}
	if b.Attrs == nil {
		b.Attrs = map[string]string{}
	}
	b.Attrs[snapshot.AttrEpoch] = h.Epoch.String()
	return nil
}

// refreshable says what a base taken now would be of.
func (s *stream) refreshable() (snapshot.Info, error) {
	list := Bases{s}.Bases()
	if len(list) == 0 && s.bases.rooted {
		return s.firstBase()
	}
	if len(list) == 0 {
		return snapshot.Info{}, &tidegate.Error{
			Op: "renew base of", Subject: s.id.String(), Class: tidegate.Transient, Err: fmt.Errorf("no base is held: %w", tidegate.ErrNotFound),
			Hint: "the first base of a generation comes from the stream's writer",
		}
	}
	newest := list[len(list)-1]
	return snapshot.Info{Stream: s.id, Generation: newest.Generation, Opened: newest.Opened}, nil
}

// firstBase says what the first base of a stream that began without one is of.
func (s *stream) firstBase() (snapshot.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if upTo := s.core.ApplyTo(); upTo >= s.log.First() && upTo > 0 {
		_, h, err := s.log.At(upTo)
		if err != nil {
			return snapshot.Info{}, err
		}
		if _, opened, known := s.openedOf(h.Generation); known {
			return snapshot.Info{Stream: s.id, Generation: h.Generation, Opened: opened}, nil
		}
	}
	return snapshot.Info{}, &tidegate.Error{Op: "take base of", Subject: s.id.String(), Class: tidegate.Transient, Err: fmt.Errorf("nothing is committed: %w", tidegate.ErrNotFound)}
}

// beginIdle is begin where a base that is on its way is waited for by whoever asks,
// and not ended.
func (b *bases) beginIdle(ctx context.Context, t *taking) (*snapshot.Intake, error) {
	b.s.mu.Lock()
	now := b.now
	b.s.mu.Unlock()
	if now != nil {
		return nil, &tidegate.Error{Op: "renew base of", Subject: b.s.id.String(), Class: tidegate.Transient, Err: fmt.Errorf("another base is on its way from %s: %w", now.from, tidegate.ErrConflict)}
	}
	return b.begin(ctx, t, errOtherBase)
}

var errOtherBase = fmt.Errorf("another base is taken: %w", tidegate.ErrConflict)

// paced holds a sink back by what is handed to it, whether it is new there or not.
type paced struct {
	snapshot.Sink
	wait func(ctx context.Context, bytes int) error
}

// Put implements [snapshot.Sink].
func (p paced) Put(ctx context.Context, place uint64, x *snapshot.Extent, pages snapshot.Pages) (snapshot.Put, error) {
	if err := p.wait(ctx, x.Bytes); err != nil {
		return snapshot.Put{}, err
	}
	return p.Sink.Put(ctx, place, x, pages)
}

// keptFrom returns the seq of the batch with which the log must begin for a base:
// the base and the log from there on are the state. It is an error when this log
// does not have all of that: when it begins later, when what the base holds is not
// committed here, or when the base is of another history than the log, as one is
// that was taken of what an unclean failover then left behind.
func (s *stream) keptFrom(info snapshot.Info) (tidegate.Seq, error) {
	fail := func(err error) (tidegate.Seq, error) { return 0, s.notOfLog(err) }
	s.mu.Lock()
	upTo := s.core.ApplyTo()
	_, opened, known := s.openedOf(info.Generation)
	s.mu.Unlock()
	switch {
	case !known:
		return fail(fmt.Errorf("the log has nothing of generation %d: %w", info.Generation, tidegate.ErrNotFound))
	case opened != info.Opened:
		return fail(fmt.Errorf("generation %d of the log was opened by epoch %s, the base's by %s: %w", info.Generation, opened, info.Opened, tidegate.ErrDiverged))
	}
	if info.Start == info.End {
		return s.keptBehind(info, upTo)
	}
	first, h, err := s.batchOf(info.Generation, info.Start)
	if err != nil {
		return fail(fmt.Errorf("where the base begins: %w", err))
	}
	if h.First > info.Start {
		return fail(fmt.Errorf("the log begins at %s, the base at %s: %w", h.First, info.Start, tidegate.ErrGap))
	}
	last := first
	if info.End > info.Start {
		if last, _, err = s.batchOf(info.Generation, info.End-1); err != nil {
			return fail(fmt.Errorf("where the base ends: %w", err))
		}
	}
	if last > upTo {
		return fail(fmt.Errorf("the base reaches to batch %s, committed is %s: %w", last, upTo, tidegate.ErrGap))
	}
	for _, seq := range []tidegate.Seq{first, last} {
		l, err := s.lineageThrough(seq)
		if err != nil {
			return fail(err)
		}
		if l != info.Lineage {
			return fail(fmt.Errorf("at batch %s the log is %s, the base is of %s: %w", seq, l, info.Lineage, tidegate.ErrDiverged))
		}
	}
	return first, nil
}

func (s *stream) notOfLog(err error) error {
	return &tidegate.Error{Op: "find base in log of", Subject: s.id.String(), Class: tidegate.Transient, Err: err}
}

// keptBehind is keptFrom of a base that is a whole state where it begins: of the log
// it needs what lies behind that, of which nothing need have come yet, and it is of
// the log if that led there.
func (s *stream) keptBehind(info snapshot.Info, upTo tidegate.Seq) (tidegate.Seq, error) {
	fail := func(err error) (tidegate.Seq, error) { return 0, s.notOfLog(err) }
	b, known := s.begin()
	if !known {
		return fail(fmt.Errorf("the log is being trimmed: %w", tidegate.ErrConflict))
	}
	if b.Before.Seq > 0 && b.Generation == info.Generation && info.Start <= b.Position {
		switch {
		case info.Start < b.Position:
			return fail(fmt.Errorf("the log begins at %s, the base at %s: %w", b.Position, info.Start, tidegate.ErrGap))
		case info.Lineage != b.Lineage:
			return fail(fmt.Errorf("where the log begins it is %s, the base is of %s: %w", b.Lineage, info.Lineage, tidegate.ErrDiverged))
		}
		return b.Before.Seq + 1, nil
	}
	if info.Start == 0 {
		return fail(fmt.Errorf("a base of nothing: %w", tidegate.ErrUnsupported))
	}
	last, h, err := s.batchOf(info.Generation, info.Start-1)
	switch {
	case err != nil:
		return fail(fmt.Errorf("what led to the base: %w", err))
	case last > upTo:
		return fail(fmt.Errorf("the base has what is in batch %s, committed is %s: %w", last, upTo, tidegate.ErrGap))
	}
	l, err := s.lineageThrough(last)
	if err != nil {
		return fail(err)
	}
	if l != info.Lineage {
		return fail(fmt.Errorf("at batch %s the log is %s, the base is of %s: %w", last, l, info.Lineage, tidegate.ErrDiverged))
	}
	if h.Next > info.Start {
		return last, nil // it begins inside of a batch
	}
	return last + 1, nil
}

// refreshFinding is what there is to say of the last attempt; mu is held.
func (s *stream) refreshFinding() []local.Finding {
	if s.bases == nil || s.bases.failed == nil || errors.Is(s.bases.failed, tidegate.ErrConflict) {
		return nil // what is no newer is not missed
	}
	return []local.Finding{{
		Name: findingRefresh, Severity: local.SeverityWarning, Text: "the base was not renewed: " + s.bases.failed.Error(), Hint: tidegate.HintOf(s.bases.failed),
	}}
}

// newestBase returns when the newest base of the log's last generation was taken, and
// how many bytes its files have; the zero time when none is held. mu is held.
func (s *stream) newestBase() (at time.Time, bytes int64) {
	if s.bases == nil {
		return at, 0
	}
	g, opened, lacks := s.lacks()
	if lacks || g == 0 {
		return at, 0
	}
	for _, l := range s.bases.store.Bases() { // by start
		if l.Generation == g && l.Opened == opened && s.bases.verdict(&l) != verdictNot {
			at, bytes = time.Unix(0, l.Taken), l.Bytes
		}
	}
	return at, bytes
}
