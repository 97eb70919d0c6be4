package archive

import (
	"context"
	"errors"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
)

// claimNow carries out what the claim asks for, and reports whether this node
// uploads.
func (w *Writer) claimNow(ctx context.Context) (bool, error) {
	for range 3 { // read, then put; a put that lost is read once more at the next step
		switch w.claim.next(w.Clock.Boot()) {
		case claimHold:
			return true, nil
		case claimWait:
			return false, nil
		case claimRead:
			if err := w.readClaim(ctx); err != nil {
				return false, err
			}
		case claimPut:
			err := w.putClaim(ctx, false)
			if errors.Is(err, tidegate.ErrConflict) {
				return false, nil
			}
			if err != nil {
				return false, err
			}
		}
	}
	return w.claim.held(w.Clock.Boot()), nil
}

// readClaim reads who uploads. The tag is asked for first: should the object change in
// between, a put on the condition of it fails.
func (w *Writer) readClaim(ctx context.Context) error {
	name := ArchivistName(w.id)
	o, err := w.Bucket.Stat(ctx, name)
	if errors.Is(err, tidegate.ErrNotFound) {
		w.succeeded()
		w.claim.read(false, "", Archivist{}, w.Clock.Boot())
		return nil
	}
	if err != nil {
		return w.inBucket("ask who archives", err)
	}
	b, err := w.getDocument(ctx, name)
	if err != nil {
		return w.inBucket("ask who archives", err)
	}
	doc, err := ParseArchivist(w.id, b)
	if err != nil {
		// Nothing rests on it: it is waited for like a node that is gone, and written anew.
		w.Logger.Warn("archivist", "err", err)
		doc = Archivist{}
	}
	w.claim.read(true, o.Tag, doc, w.Clock.Boot())
	return nil
}

// putClaim writes that this node uploads, or does not any more. tidegate.ErrConflict
// when another one has written since.
func (w *Writer) putClaim(ctx context.Context, released bool) error {
	doc := Archivist{
		Version: Version, Node: w.self.Node, Incarnation: w.self.Incarnation, Released: released,
		Until: w.Clock.Wall().UTC().Add(w.policy.Lease).Truncate(time.Millisecond),
	}
	o := bucket.PutOptions{IfAbsent: !w.claim.there, IfMatch: w.claim.tag}
	if o.IfAbsent {
		o.IfMatch = ""
	}
	// Counted from before the call: what is renewed must not last longer than others wait.
	began := w.Clock.Boot()
	obj, err := w.put(ctx, ArchivistName(w.id), doc.Encode(), o)
	if err != nil {
		w.claim.lost() // or it was put, and the answer was lost
		if errors.Is(err, tidegate.ErrConflict) {
			return err
		}
		return w.inBucket("claim stream", err)
	}
	w.claim.put(obj.Tag, doc, began)
	return nil
}

// releaseWithin bounds what a node that ends still says in a bucket.
const releaseWithin = 2 * time.Second

// release lets another node take over at once. The end may have come while this node was
// renewing its claim: then it asks first whether the claim still is its own.
func (w *Writer) release(ctx context.Context) {
	if st := w.Status(); st.Failing != nil || w.claim.renewed == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseWithin)
	defer cancel()
	err := w.reread(ctx)
	if err == nil && w.claim.mine() {
		err = w.putClaim(ctx, true)
	}
	if err != nil {
		w.Logger.Debug("archivist is not released: others wait", "err", err)
	}
}

// reread reads the claim when it is not known what it says.
func (w *Writer) reread(ctx context.Context) error {
	if w.claim.known {
		return nil
	}
	return w.readClaim(ctx)
}
