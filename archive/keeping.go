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
	// strangerAge is for how long a pack that no base needs is left alone in another
	// node's mirror: its base may be on its way. By the clock of the bucket and this one.
	strangerAge = 24 * time.Hour
)

// keeping is what is known of the rule's work from one pass to the next.
type keeping struct {
	since  tidegate.Instant // the tenure that it is of
	passed tidegate.Instant // when the last pass ended; 0: there was none
	more   bool             // it ended before everything had gone
	swept  bool             // since then no base has gone, and packs were looked at
	young  tidegate.Instant // from when on those that were too young then are not; 0: none was
	// sound are the manifests of bases that were found whole in this pass, or in those
	// that it goes on from.
	sound map[string]bool
}

// basesStep mirrors bases, and then lets go what the rule names.
func (w *Writer) basesStep(ctx context.Context) (time.Duration, error) {
	wait, err := w.mirrorStep(ctx)
	if err == nil {
		err = w.scarStep(ctx)
	}
	since, holds := w.tenure()
	if !holds || since != w.keeping.since {
		w.keeping = keeping{since: since} // another node may remove meanwhile
	}
	if err != nil || w.policy.Keep.Window == 0 || !holds {
		return wait, err
	}
	k, now := &w.keeping, w.Clock.Boot()
	if time.Duration(now-since) < w.policy.Lease {
		return wait, nil // what the node before had on its way comes, or never does
	}
	if k.passed != 0 && !k.more && time.Duration(now-k.passed) < w.policy.KeepEvery {
		return wait, nil
	}
	if !k.more {
		k.sound = nil
	}
	err = w.keepPass(ctx, since)
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
	since   tidegate.Instant // the tenure
	removed Removed
	tag     string // of its document
	written []byte // that document
	left    int    // removals that it may do
	locked  int    // objects that the bucket keeps
}

// keepPass carries out the rule. Bases go first, then packs that none needs which is
// listed then, then segments, oldest first; what goes was written down before. After a
// crash anywhere what is listed is whole, and the next pass goes on. since is the tenure
// with which it ends.
func (w *Writer) keepPass(ctx context.Context, since tidegate.Instant) (err error) {
	info := w.Source.Standing().Info
	info.Stream = w.id
	p := &pass{w: w, since: since, left: removalsMax}
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
	if kept, err = p.onlyIfSound(ctx, bases, kept); err != nil {
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

// onlyIfSound holds everything that would go while one of the bases on which the rest
// rests lacks something. That the extents are there which its manifest names was seen
// when its mirror was opened; what those take pages from was not looked at.
func (p *pass) onlyIfSound(ctx context.Context, bases *Bases, kept Retained) (Retained, error) {
	branch, aside, _ := p.s.Goes(kept)
	if kept.Held != "" || len(branch)+len(aside) == 0 && !slices.Contains(kept.Stays, "") {
		return kept, nil
	}
	sound := map[string]bool{}
	unsure := map[*snapshot.Store][]snapshot.Listed{}
	for _, i := range kept.Rests {
		b := bases.All[i]
		if sound[p.manifest(b)] = true; !p.w.keeping.sound[p.manifest(b)] {
			unsure[b.Store] = append(unsure[b.Store], b.Listed)
		}
	}
	for store, listed := range unsure {
		err := store.Whole(ctx, listed)
		if OfObject(err) {
			return hold(len(bases.All), true, "a base that the window rests on is damaged: %v", err), nil
		}
		if err != nil {
			return kept, err
		}
	}
	p.w.keeping.sound = sound
	return kept, nil
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
	if err := p.w.still(p.since); err != nil {
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
	k, now := &p.w.keeping, p.w.Clock.Boot()
	if k.swept && (k.young == 0 || now < k.young) {
		return nil
	}
	mirrors, err := p.mirrors(ctx)
	if err != nil {
		return err
	}
	locked, young := p.locked, false
	for _, m := range mirrors {
		free, later, err := p.free(ctx, bases, m)
		young = young || later
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
	k.swept, k.young = p.locked == locked, 0
	if young {
		k.young = now + tidegate.Instant(strangerAge)
	}
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

// free returns the packs of a mirror that nobody needs, ascending. young: there are others,
// which stay until they are old.
func (p *pass) free(ctx context.Context, bases *Bases, m *mirrorPacks) (numbers []uint64, young bool, err error) {
	needed := map[uint64]bool{}
	var listed []snapshot.Listed
	var store *snapshot.Store
	for _, b := range bases.All {
		if b.Mirror == m.Mirror {
			store, listed = b.Store, append(listed, b.Listed)
		}
	}
	if len(listed) < m.listed {
		return nil, false, &tidegate.CorruptError{Path: m.Prefix(p.w.id), Offset: -1, What: fmt.Sprintf("%d of %d bases can be read", len(listed), m.listed)}
	}
	if store != nil {
		if needed, err = store.Needs(ctx, listed); err != nil {
			return nil, false, err
		}
	}
	// What this node's store has, the next base may be made of.
	if m.Mirror == p.w.self {
		if own, _ := p.w.Source.Bases(ctx); own != nil {
			sealed, err := own.Sealed()
			if err != nil {
				return nil, false, err
			}
			for _, number := range sealed {
				needed[number] = true
			}
		}
	}
	for number, at := range m.packs {
		onItsWay := m.Node != p.w.self.Node && p.w.Clock.Wall().Sub(at.modified) < strangerAge
		switch {
		case needed[number]:
		case onItsWay:
			young = true
		default:
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return numbers, young, nil
}

// log removes the segments that go.
func (p *pass) log(ctx context.Context, kept Retained) error {
	branch, aside, _ := p.s.Goes(kept)
	if len(branch)+len(aside) == 0 {
		return nil
	}
	if err := p.w.scar(ctx, p.s, p.since, true); err != nil {
		return err
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
	if err := p.w.still(p.since); err != nil {
		return false, err
	}
	ctx, cancel := p.w.within(ctx, 0)
	defer cancel()
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
