package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/snapshot"
)

// mirrored is what is known of a stream's bases in the bucket.
type mirrored struct {
	since tidegate.Instant       // the tenure in which it was looked at
	bases map[snapshot.Name]bool // in whatever mirror, or removed
	own   map[snapshot.Name]bool // in this node's mirror
	packs map[uint64]bool        // of this node's mirror, with their indexes
}

// mirrorStep brings the bases that the archive lacks into this node's mirror.
func (w *Writer) mirrorStep(ctx context.Context) (time.Duration, error) {
	since, holds := w.tenure()
	if w.mirrored != nil && (!holds || w.mirrored.since != since) {
		w.mirrored = nil // another node may mirror, and remove, meanwhile
	}
	if !holds {
		return w.tick(), nil
	}
	store, bases := w.Source.Bases(ctx)
	if store == nil || len(bases) == 0 {
		return w.tick(), nil
	}
	if w.mirrored == nil {
		if err := w.lookAtMirrors(ctx, store, bases, since); err != nil {
			w.mirrored = nil
			return 0, err
		}
	}
	for _, b := range bases {
		if w.mirrored.bases[b.Name] {
			continue
		}
		began := w.Clock.Boot()
		if err := w.mirror(ctx, store, b); err != nil {
			w.mirrored = nil
			return 0, fmt.Errorf("mirror base %.12s: %w", b.Name, err)
		}
		w.mirrored.bases[b.Name] = true
		w.Logger.Info("base archived", "base", fmt.Sprintf("%.12s", b.Name), "generation", uint32(b.Generation), "bytes", b.Bytes,
			"took", time.Duration(w.Clock.Boot()-began).String())
	}
	return w.tick(), nil // the bucket is asked nothing while there is nothing new
}

// lookAtMirrors looks what is there, and brings back what the bases of this node's mirror
// lack: whoever uploaded before may have removed packs while their manifest was on its way.
func (w *Writer) lookAtMirrors(ctx context.Context, store *snapshot.Store, bases []snapshot.Listed, since tidegate.Instant) (err error) {
	if w.mirrored, err = w.listMirrors(ctx, since); err != nil {
		return w.inBucket("list bases", err)
	}
	if !slices.ContainsFunc(bases, func(b snapshot.Listed) bool { return w.mirrored.own[b.Name] }) {
		return nil
	}
	return w.allPacks(ctx, store)
}

// listMirrors looks what is there.
func (w *Writer) listMirrors(ctx context.Context, since tidegate.Instant) (*mirrored, error) {
	m := &mirrored{since: since, bases: map[snapshot.Name]bool{}, own: map[snapshot.Name]bool{}, packs: map[uint64]bool{}}
	parts := map[uint64]int{}
	prefix := BasesPrefix(w.id)
	for o, err := range w.Bucket.List(ctx, prefix, prefix) {
		if err != nil {
			return nil, err
		}
		e, err := Parse(o.Name)
		switch {
		case err != nil: // not ours: it is left alone
		case e.Kind == KindBase:
			m.bases[e.Base.Name] = true
			m.own[e.Base.Name] = m.own[e.Base.Name] || e.Mirror == w.self
		case e.Mirror == w.self: // a pack, or its index
			parts[e.Pack]++
			m.packs[e.Pack] = parts[e.Pack] == 2
		}
	}
	// Behind the listing: what has gone before that is written there.
	removed, _, err := readRemoved(ctx, w.Bucket, w.id)
	if err != nil {
		return nil, err
	}
	for _, name := range removed.Bases {
		if n, err := snapshot.ParseName(name); err == nil { // of another one nobody can have a base
			m.bases[n] = true
		}
	}
	w.succeeded()
	return m, nil
}

// mirror puts every sealed pack of the store that is not there, and then the base's
// manifest. While packs go up a sweep may move what the base needs to others; so it
// ends only when nothing sealed is left. An index may come to name less, never more,
// than when it was put: what the base needs now, all that was put names.
func (w *Writer) mirror(ctx context.Context, store *snapshot.Store, b snapshot.Listed) error {
	r, err := store.Reader(b) // it is not removed while it is read
	if err != nil {
		return err
	}
	defer r.Close()
	if err := w.allPacks(ctx, store); err != nil {
		return err
	}
	manifest, _, err := store.Manifest(b)
	if err != nil {
		return err
	}
	if err := w.putManifest(ctx, b, manifest); err != nil {
		return err
	}
	// Once it is listed, all packs must be there still: a node that uploaded before this
	// one may have removed some as being of no use just then.
	now, err := w.listMirrors(ctx, w.mirrored.since)
	if err != nil {
		return err
	}
	w.mirrored.packs = now.packs
	return w.allPacks(ctx, store)
}

// allPacks puts sealed packs until none is left that is not there.
func (w *Writer) allPacks(ctx context.Context, store *snapshot.Store) error {
	for {
		if more, err := w.mirrorPacks(ctx, store); !more || err != nil {
			return err
		}
	}
}

// putManifest lists a base whose packs are there. It comes before whoever takes over
// has waited for as long again and removes what no manifest names.
func (w *Writer) putManifest(ctx context.Context, b snapshot.Listed, manifest []byte) error {
	if err := w.still(w.mirrored.since); err != nil {
		return err
	}
	ctx, cancel := w.within(ctx, w.policy.Lease)
	defer cancel()
	return w.putNew(ctx, w.self.ManifestName(w.id, BaseName{b.Generation, b.Name}), bytes.NewReader(manifest))
}

// mirrorPacks puts the sealed packs that are not there; more: there were some.
func (w *Writer) mirrorPacks(ctx context.Context, store *snapshot.Store) (more bool, err error) {
	numbers, err := store.Sealed()
	if err != nil {
		return false, err
	}
	for _, number := range numbers {
		if w.mirrored.packs[number] {
			continue
		}
		more = true
		if err := w.still(w.mirrored.since); err != nil {
			return more, err
		}
		err := w.mirrorPack(ctx, store, number)
		if errors.Is(err, errGone) {
			continue // swept meanwhile: what stays of it is in a newer one
		}
		if err != nil {
			return more, err
		}
		w.mirrored.packs[number] = true
	}
	return more, nil
}

// errGone says that a pack is not in the store any more.
var errGone = errors.New("pack is gone")

func (w *Writer) mirrorPack(ctx context.Context, store *snapshot.Store, number uint64) (err error) {
	// The index first: should it come to name less, the pack has it all the same.
	index, err := store.Index(number)
	if err != nil {
		return gone(err)
	}
	f, err := store.OpenPack(number)
	if err != nil {
		return gone(err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return err
	}
	if err := w.putNew(ctx, w.self.PackName(w.id, number), io.NewSectionReader(f, 0, size)); err != nil {
		return w.inBucket("upload pack", err)
	}
	if err := w.putIndex(ctx, number, index); err != nil {
		return w.inBucket("upload index", err)
	}
	return nil
}

// putIndex puts the index of a pack. One that is there already, from before the pack's
// index came to name less, is as good.
func (w *Writer) putIndex(ctx context.Context, number uint64, index []byte) error {
	err := w.putNew(ctx, w.self.IndexName(w.id, number), bytes.NewReader(index))
	if errors.Is(err, tidegate.ErrDiverged) {
		return nil
	}
	return err
}

func gone(err error) error {
	if errors.Is(err, tidegate.ErrNotFound) {
		return errGone
	}
	return err
}
