package archive

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/snapshot"
)

const (
	// removalsMax bounds what one pass removes: bases are mirrored between two.
	removalsMax = 500
	// headBytes is what is fetched at a time where only the heads of records are read.
	headBytes = 16 << 10
	// strangerAge is for how long a pack without an index is left alone in another
	// node's mirror: it may be on its way. By the clock of the bucket and this one.
	strangerAge = 24 * time.Hour
)

// keeping is what is known of the rule's work from one pass to the next.
type keeping struct {
	passed tidegate.Instant // when the last pass ended; 0: there was none
	more   bool             // it ended before everything had gone
	swept  bool             // since then no base has gone, and packs were looked at
}

// basesStep mirrors bases, and then lets go what the rule names.
func (w *Writer) basesStep(ctx context.Context) (time.Duration, error) {
	wait, err := w.mirrorStep(ctx)
	if !w.holding() {
		w.keeping = keeping{} // another node may remove meanwhile
	}
	if err != nil || w.policy.Keep.Window == 0 || !w.holding() {
		return wait, err
	}
	k, now := &w.keeping, w.Clock.Boot()
	if k.passed != 0 && !k.more && time.Duration(now-k.passed) < w.policy.KeepEvery {
		return wait, nil
	}
	err = w.keepPass(ctx)
	if k.more = errors.Is(err, errEnough); k.more {
		return w.tick(), nil
	}
	if err != nil {
		return 0, fmt.Errorf("remove what is old: %w", err)
	}
	k.passed = w.Clock.Boot()
	return wait, nil
}

// pass is one look at an archive, and what goes after it.
type pass struct {
	w       *Writer
	s       *Stream
	removed Removed
	tag     string // of its document
	written []byte // that document
	left    int    // removals that it may do
	locked  int    // objects that the bucket keeps
}

// keepPass carries out the rule. Bases go first, then packs that none needs which is
// listed then, then segments, oldest first; what goes was written down before. After a
// crash anywhere what is listed is whole, and the next pass goes on.
func (w *Writer) keepPass(ctx context.Context) (err error) {
	info := w.Source.Standing().Info
	info.Stream = w.id
	p := &pass{w: w, left: removalsMax}
	if p.s, err = (&Reader{b: w.Bucket}).Open(ctx, info); err != nil {
		return err
	}
	if p.removed, p.tag, err = readRemoved(ctx, w.Bucket, w.id); err != nil {
		return err
	}
	if p.written, err = p.removed.Encode(); err != nil {
		return err
	}
	locked, held, err := p.removeBases(ctx)
	if err != nil || held {
		return err
	}
	if err := p.removeRest(ctx, locked); err != nil {
		return err
	}
	if p.locked > 0 {
		w.Logger.Info("some of what is to go from the archive is locked, and goes later", "objects", p.locked)
	}
	return nil
}

// removeBases lets bases go. locked are those that the bucket keeps; held: the rule
// lets nothing go.
func (p *pass) removeBases(ctx context.Context) (locked map[string]bool, held bool, err error) {
	bases, err := p.s.bases(ctx, headBytes)
	if err != nil {
		return nil, false, err
	}
	defer bases.Close()
	kept, err := p.retain(ctx, bases, nil)
	if err != nil {
		return nil, false, err
	}
	if p.w.heldBy(kept); kept.Held != "" {
		return nil, true, nil
	}
	locked, err = p.bases(ctx, bases, kept)
	return locked, false, err
}

// removeRest looks at what is left, and lets packs and segments go.
func (p *pass) removeRest(ctx context.Context, locked map[string]bool) (err error) {
	if p.s, err = (&Reader{b: p.w.Bucket}).Open(ctx, p.s.Info); err != nil {
		return err
	}
	bases, err := p.s.bases(ctx, headBytes)
	if err != nil {
		return err
	}
	defer bases.Close()
	kept, err := p.retain(ctx, bases, locked)
	if err != nil || kept.Held != "" {
		return err
	}
	if err := p.packs(ctx, bases); err != nil {
		return err
	}
	return p.log(ctx, kept)
}

// retain asks the rule about the archive as it is.
func (p *pass) retain(ctx context.Context, bases *Bases, locked map[string]bool) (Retained, error) {
	win, err := p.s.Window(ctx, bases, true)
	if err != nil {
		return Retained{}, err
	}
	return p.s.Retain(ctx, &win, p.w.policy.Keep, func(b BaseState) bool { return locked[p.manifest(b.Base)] }, p.w.Clock.Wall())
}

func (p *pass) manifest(b Base) string {
	return b.Mirror.ManifestName(p.w.id, BaseName{b.Generation, b.Name})
}

// bases removes the manifests of those that go, and returns which the bucket keeps.
func (p *pass) bases(ctx context.Context, bases *Bases, kept Retained) (locked map[string]bool, err error) {
	var going []Base
	for i, b := range bases.All {
		if kept.Stays[i] == "" {
			going = append(going, b)
			p.removed.addBase(b.Name)
		}
	}
	if len(going) > 0 {
		p.w.keeping.swept = false
	}
	if err := p.write(ctx); err != nil {
		return nil, err
	}
	locked = map[string]bool{}
	for _, b := range going {
		name := p.manifest(b)
		gone, err := p.remove(ctx, name, 0)
		if err != nil {
			return nil, err
		}
		if !gone {
			locked[name] = true
			continue
		}
		p.w.Logger.Info("base removed from archive", "base", fmt.Sprintf("%.12s", b.Name), "node", string(b.Mirror.Node), "taken", time.Unix(0, b.Taken).UTC())
	}
	return locked, nil
}

// write puts down what is about to go, where that is news.
func (p *pass) write(ctx context.Context) error {
	text, err := p.removed.Encode()
	if err != nil || bytes.Equal(text, p.written) {
		return err
	}
	if err := p.holding(); err != nil {
		return err
	}
	o, err := p.w.put(ctx, RemovedName(p.w.id), text, bucket.PutOptions{IfAbsent: p.tag == "", IfMatch: p.tag})
	if err != nil {
		return p.w.inBucket("write what is to go", err)
	}
	p.tag, p.written = o.Tag, text
	p.w.gone(p.removed.Log)
	return nil
}

// packs removes those that no listed base needs. Of a mirror of which something cannot
// be read nothing goes.
func (p *pass) packs(ctx context.Context, bases *Bases) error {
	if p.w.keeping.swept {
		return nil
	}
	mirrors, err := p.mirrors(ctx)
	if err != nil {
		return err
	}
	locked := p.locked
	for _, m := range mirrors {
		free, err := p.free(ctx, bases, m)
		if tidegate.ClassOf(err) == tidegate.Corrupt {
			p.w.Logger.Warn("no pack of a mirror is removed while it is damaged", "node", string(m.Node), "err", err)
			continue
		}
		if err != nil {
			return err
		}
		for _, number := range free {
			if m.Mirror == p.w.self && p.w.mirrored != nil {
				delete(p.w.mirrored.packs, number)
			}
			gone, err := p.pack(ctx, m, number)
			if err != nil {
				return err
			}
			if !gone {
				break // those behind it are younger, and locked for longer
			}
		}
	}
	p.w.keeping.swept = p.locked == locked
	return nil
}

// pack removes what there is of one. The index goes first: a pack that none names is of
// no use to anybody, an index without its pack is damage.
func (p *pass) pack(ctx context.Context, m *mirrorPacks, number uint64) (gone bool, err error) {
	at := m.packs[number]
	if at.index {
		if gone, err = p.remove(ctx, m.IndexName(p.w.id, number), at.indexSize); !gone || err != nil {
			return false, err
		}
	}
	if at.pack {
		return p.remove(ctx, m.PackName(p.w.id, number), at.packSize)
	}
	return true, nil
}

// mirrorPacks are a mirror's packs by number.
type mirrorPacks struct {
	Mirror

	packs  map[uint64]*packObjects
	listed int // bases
}

// packObjects are what is there of a pack.
type packObjects struct {
	pack, index         bool
	packSize, indexSize int64
	modified            time.Time // of the pack
}

// mirrors lists what packs there are.
func (p *pass) mirrors(ctx context.Context) ([]*mirrorPacks, error) {
	all := map[Mirror]*mirrorPacks{}
	prefix := BasesPrefix(p.w.id)
	for o, err := range p.w.Bucket.List(ctx, prefix, prefix) {
		if err != nil {
			return nil, err
		}
		e, err := Parse(o.Name)
		if err != nil {
			continue // not ours: it is left alone
		}
		m := all[e.Mirror]
		if m == nil {
			m = &mirrorPacks{Mirror: e.Mirror, packs: map[uint64]*packObjects{}}
			all[e.Mirror] = m
		}
		if e.Kind == KindBase {
			m.listed++
			continue
		}
		m.note(e, o)
	}
	return slices.SortedFunc(maps.Values(all), func(a, b *mirrorPacks) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), slices.Compare(a.Incarnation[:], b.Incarnation[:]))
	}), nil
}

func (m *mirrorPacks) note(e Entry, o bucket.Object) {
	at := m.packs[e.Pack]
	if at == nil {
		at = &packObjects{}
		m.packs[e.Pack] = at
	}
	if e.Kind == KindIndex {
		at.index, at.indexSize = true, max(0, o.Size)
		return
	}
	at.pack, at.packSize, at.modified = true, max(0, o.Size), o.Modified
}

// free returns the packs of a mirror that nobody needs, ascending.
func (p *pass) free(ctx context.Context, bases *Bases, m *mirrorPacks) (numbers []uint64, err error) {
	needed := map[uint64]bool{}
	var listed []snapshot.Listed
	var store *snapshot.Store
	for _, b := range bases.All {
		if b.Mirror == m.Mirror {
			store, listed = b.Store, append(listed, b.Listed)
		}
	}
	if len(listed) < m.listed {
		return nil, &tidegate.CorruptError{Path: m.Prefix(p.w.id), Offset: -1, What: fmt.Sprintf("%d of %d bases can be read", len(listed), m.listed)}
	}
	if store != nil {
		if needed, err = store.Needs(ctx, listed); err != nil {
			return nil, err
		}
	}
	// What this node's store has, the next base may be made of.
	if m.Mirror == p.w.self {
		if own, _ := p.w.Source.Bases(ctx); own != nil {
			sealed, err := own.Sealed()
			if err != nil {
				return nil, err
			}
			for _, number := range sealed {
				needed[number] = true
			}
		}
	}
	for number, at := range m.packs {
		onItsWay := !at.index && m.Node != p.w.self.Node && p.w.Clock.Wall().Sub(at.modified) < strangerAge
		if !needed[number] && !onItsWay {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// log removes the segments that go.
func (p *pass) log(ctx context.Context, kept Retained) error {
	branch, aside, _ := p.s.Goes(kept)
	if len(branch)+len(aside) == 0 {
		return nil
	}
	for _, h := range p.removed.holes(p.s.Branch) {
		if h.Last < kept.From { // nobody fills it any more
			p.removed.addScars(h)
		}
	}
	for _, run := range runsOf(branch) {
		p.removed.addLog(run)
	}
	if err := p.write(ctx); err != nil {
		return err
	}
	for _, list := range [][]Segment{aside, branch} {
		for _, g := range list {
			gone, err := p.remove(ctx, p.s.name(g), p.s.Size(g))
			if err != nil {
				return err
			}
			if !gone { // what is behind it would be left in pieces
				return nil
			}
		}
	}
	return nil
}

// runsOf cuts segments where there is a hole between two, which is not to look as if
// a rule had made it.
func runsOf(segments []Segment) (runs [][]Segment) {
	for i, g := range segments {
		if i == 0 || g.First > segments[i-1].Last+1 {
			runs = append(runs, nil)
		}
		runs[len(runs)-1] = append(runs[len(runs)-1], g)
	}
	return runs
}

// errEnough ends a pass that has removed as much as one may.
var errEnough = errors.New("enough for one pass")

// remove removes an object of so many bytes; gone is false while the bucket has it locked.
func (p *pass) remove(ctx context.Context, name string, size int64) (gone bool, err error) {
	if p.left--; p.left < 0 {
		return false, errEnough
	}
	if err := p.w.pause(ctx, p.w.policy.RemoveEvery); err != nil {
		return false, err
	}
	if err := p.holding(); err != nil {
		return false, err
	}
	err = p.w.Bucket.Remove(ctx, name)
	if tidegate.ClassOf(err) == tidegate.Refused {
		p.locked++
		return false, nil
	}
	if err != nil {
		return false, p.w.inBucket("remove", err)
	}
	p.w.succeeded()
	p.w.Meter.Removed(size)
	return true, nil
}

// holding ends the pass of a node that may not be the only one to upload any more: what
// another one mirrors now rests on what it has found there.
func (p *pass) holding() error {
	if p.w.holding() {
		return nil
	}
	return &tidegate.Error{Op: "remove from archive", Class: tidegate.Transient, Err: errors.New("another node may have taken over")}
}

// pause waits.
func (w *Writer) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// heldBy makes visible why nothing goes.
func (w *Writer) heldBy(k Retained) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.st.Kept = ""; k.Stuck {
		w.st.Kept = k.Held
	}
}

// gone tells the other lane what is not missing although it is not there.
func (w *Writer) gone(log []Gone) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.letGo = slices.Clone(log)
}
