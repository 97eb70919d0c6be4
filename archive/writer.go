package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/standby/deltalog"
)

// Source is the node that a stream is archived from. Its methods may be called
// concurrently.
type Source interface {
	// Standing says what may be archived, as of now.
	Standing() Standing
	// Bases returns the node's store of bases, and those in it that are of the log,
	// which reaches beyond each one's end. The store is nil where there are none.
	Bases(ctx context.Context) (*snapshot.Store, []snapshot.Listed)
}

// Standing is how a node stands to a stream.
type Standing struct {
	// Follows: the log has adopted the active epoch and no change is under way. If it
	// does not, nothing else counts.
	Follows bool
	Epoch   tidegate.Epoch // that the log has adopted
	Start   tidegate.Seq   // its first batch
	Commit  tidegate.Seq   // newest batch that is committed, and durable here
	Info    StreamInfo
	// Gaps are what people have accepted that the log lacks, oldest first.
	Gaps []tidegate.Gap
}

// Meter counts what a writer does. Its methods may be called concurrently.
type Meter interface {
	Stored(bytes int64)          // an object was put
	Removed(bytes int64)         // an object was removed
	Failed(class tidegate.Class) // a request, or what it was made from
}

// Deps is what a [Writer] is given; none is nil.
type Deps struct {
	Bucket  bucket.Bucket
	Source  Source
	Log     *deltalog.Log
	Buffers Buffers
	Clock   clock.Clock
	Logger  *slog.Logger
	Meter   Meter
}

// Buffers are the memory of writers that share it: each holds one while it uploads a
// segment, and there are as many as its capacity.
type Buffers chan []byte

// NewBuffers makes n.
func NewBuffers(n int) Buffers {
	b := make(Buffers, n)
	for range n {
		b <- nil
	}
	return b
}

// Writer uploads a stream's committed batches, and its bases. Nothing waits for it:
// it reads the log like anybody, and what the bucket does is its own concern.
type Writer struct {
	id     tidegate.StreamID
	self   Mirror
	policy Policy
	Deps

	// The goroutine's own that uploads segments.
	formatted bool // the bucket is an archive
	described bool // the stream is described in it
	survey    survey
	backlog   backlog
	claim     claim

	// Its own that mirrors bases, and removes what is old.
	mirrored *mirrored // nil: not looked at
	keeping  keeping
	scarring scarring

	mu sync.Mutex
	st Status
	// since: from when on this node has been the one that uploads; until: for how long
	// others leave the stream to it.
	since tidegate.Instant
	until tidegate.Instant
	letGo []Gone // log that the rule has let go, as far as this node has done it or read of it
	// failing, failed: of each lane, why nothing succeeds, and from when on.
	failing [lanes]error
	failed  [lanes]tidegate.Instant
}

// lane is one of the two goroutines of a writer.
type lane int

const (
	laneLog lane = iota
	laneBases
	lanes
)

// Status is what a writer knows. The zero value knows nothing.
type Status struct {
	Archivist bool // this node uploads
	// Known: where the archive ends is known, for the log of Epoch. Next is the first
	// batch of the log that it lacks.
	Known bool
	Epoch tidegate.Epoch
	Next  tidegate.Seq
	Holes []Range // that this log cannot fill
	// LastSuccess is when the bucket did last what it was asked, by the wall clock; zero:
	// never in this run.
	LastSuccess time.Time
	// Failing is why it does not, and Since from when on; nil while it does.
	Failing error
	Since   tidegate.Instant
	// Kept is why nothing is removed from the archive although a rule would; empty: it is,
	// or there is no reason for concern.
	Kept string
	// Against is not nil while the archive contradicts the log: nothing is uploaded then.
	Against error
}

// NewWriter returns a writer of one stream that does no I/O before [Writer.Run]. The
// policy must be valid, with its defaults.
func NewWriter(id tidegate.StreamID, self Mirror, policy Policy, deps Deps) *Writer {
	return &Writer{id: id, self: self, policy: policy, Deps: deps, claim: claim{self: self, policy: policy}}
}

// Status returns what the writer knows.
func (w *Writer) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := w.st
	for l := range lanes {
		if w.failing[l] != nil && (st.Failing == nil || w.failed[l] < st.Since) {
			st.Failing, st.Since = w.failing[l], w.failed[l]
		}
	}
	return st
}

// Run uploads until ctx ends. It may be called once.
func (w *Writer) Run(ctx context.Context) {
	var bases sync.WaitGroup
	bases.Go(func() { w.drive(ctx, laneBases, w.basesStep) })
	w.drive(ctx, laneLog, w.logStep)
	bases.Wait()
	w.release(ctx)
}

// drive runs a lane's steps, each as long after the one before as that has said, and
// later when it has failed.
func (w *Writer) drive(ctx context.Context, l lane, step func(context.Context) (time.Duration, error)) {
	backoff := retry.Policy{Max: w.policy.Look}.Backoff()
	for ctx.Err() == nil {
		wait, err := step(ctx)
		if ctx.Err() != nil {
			return
		}
		w.outcome(l, err)
		if err == nil {
			backoff.Reset()
		} else {
			wait = backoff.Next()
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// outcome notes how a step went.
func (w *Writer) outcome(l lane, err error) {
	w.mu.Lock()
	was := w.failing[l]
	w.failing[l] = err
	if err != nil && was == nil {
		w.failed[l] = w.Clock.Boot()
	}
	w.mu.Unlock()
	switch {
	case err == nil && was != nil:
		w.Logger.Info("archive goes on")
	case err != nil:
		w.Meter.Failed(tidegate.ClassOf(err))
		if was == nil || was.Error() != err.Error() {
			w.Logger.Warn("archive", "err", err, "hint", tidegate.HintOf(err))
		}
	}
}

// succeeded notes that the bucket has done something.
func (w *Writer) succeeded() {
	now := w.Clock.Wall()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.st.LastSuccess = now
}

// tick is how often a writer looks at its log.
func (w *Writer) tick() time.Duration {
	return max(min(w.policy.Every/10, time.Second), time.Millisecond)
}

// logStep does the next thing for the log, and says when to come again.
func (w *Writer) logStep(ctx context.Context) (time.Duration, error) {
	s := w.Source.Standing()
	if !s.Follows {
		w.publish()
		return w.tick(), nil
	}
	if err := w.format(ctx); err != nil {
		return 0, err
	}
	if err := w.look(ctx, &s); err != nil {
		return 0, err
	}
	w.publish()
	if w.survey.against != nil {
		return w.tick(), nil
	}
	// Before the claim, and so before either lane puts anything: what lies in a bucket
	// says what it is of.
	if err := w.describe(ctx, s.Info); err != nil {
		return 0, err
	}
	was := w.claim.held(w.Clock.Boot())
	held, err := w.claimNow(ctx)
	switch {
	case err != nil:
		return 0, err
	case !held || len(w.survey.ahead) > 0:
		w.publish()
		return w.tick(), nil
	case !was:
		w.survey.stale() // somebody else may have uploaded since it was looked at
		return 0, nil
	}
	w.publish()
	return w.uploadDue(ctx, &s)
}

// publish makes what the writer knows visible.
func (w *Writer) publish() {
	now := w.Clock.Boot()
	first := w.Log.First()
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.st.Archivist
	if w.st.Archivist = w.claim.held(now); w.st.Archivist && !was {
		w.since = now
	}
	w.until = w.claim.renewed + tidegate.Instant(w.policy.Lease)
	w.st.Known, w.st.Epoch, w.st.Against = w.survey.known, w.survey.history.Epoch, w.survey.against
	w.st.Next, _ = w.survey.Next(first)
	w.st.Holes = w.survey.Holes(first)
}

// tenure reports to the other lane whether this node uploads, and since when it is the
// only one: what it found in the bucket before may have changed.
func (w *Writer) tenure() (since tidegate.Instant, holds bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.since, w.st.Archivist && w.st.Against == nil && w.Clock.Boot() < w.until
}

// still is an error of a node that may not be the only one to upload any more since it
// has looked what there is.
func (w *Writer) still(since tidegate.Instant) error {
	if now, holds := w.tenure(); holds && now == since {
		return nil
	}
	return &tidegate.Error{Op: "change archive", Class: tidegate.Transient, Err: errors.New("another node may have taken over")}
}

// within bounds a change that must not happen, however often it is tried, more than
// grace after another node may have taken over.
func (w *Writer) within(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	w.mu.Lock()
	left := time.Duration(w.until - w.Clock.Boot())
	w.mu.Unlock()
	return context.WithTimeout(ctx, left+grace)
}

// format makes sure, once, that the bucket is an archive or becomes one.
func (w *Writer) format(ctx context.Context) error {
	if w.formatted {
		return nil
	}
	// A server that ignores conditions would let two nodes write over each other.
	if err := bucket.Require(ctx, w.Bucket, bucket.Features{IfAbsent: true, IfMatch: true}); err != nil {
		return w.inBucket("look at archive", err)
	}
	if err := Begin(ctx, w.Bucket); err != nil {
		return w.inBucket("look at archive", err)
	}
	w.succeeded()
	w.formatted = true
	return nil
}

// describe makes sure, once, that the archive says what the stream is.
func (w *Writer) describe(ctx context.Context, info StreamInfo) error {
	if w.described {
		return nil
	}
	name := StreamName(w.id)
	b, err := w.getDocument(ctx, name)
	if errors.Is(err, tidegate.ErrNotFound) {
		info.Stream, info.Created = w.id, w.Clock.Wall().UTC().Truncate(time.Second)
		b = info.Encode()
		err = w.putOnce(ctx, name, b)
	}
	if err == nil {
		_, err = ParseStream(w.id, b)
	}
	if err != nil {
		return w.inBucket("describe stream", err)
	}
	w.described = true
	return nil
}

// inBucket says where an error is from.
func (w *Writer) inBucket(op string, err error) error {
	return fmt.Errorf("%s in %s: %w", op, w.Bucket, err)
}

// getDocument reads one of the archive's small objects.
func (w *Writer) getDocument(ctx context.Context, name string) ([]byte, error) {
	r, err := w.Bucket.Get(ctx, name, 0, -1)
	if err != nil {
		if errors.Is(err, tidegate.ErrNotFound) {
			w.succeeded()
		}
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, DocumentBytesMax+1))
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	w.succeeded()
	if len(b) > DocumentBytesMax {
		return nil, corrupt(name, fmt.Errorf("is longer than %d bytes", DocumentBytesMax))
	}
	return b, nil
}
