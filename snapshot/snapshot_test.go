package snapshot

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/racetest"
	"github.com/tidegate/tidegate/internal/vfs"
)

func TestBaseComesBackAsItWas(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, vfs.OS(), dir, StoreConfig{})
	l := mustPut(t, s, small(), 1)
	if err := equal(s, l, small()); err != nil {
		t.Fatal(err)
	}
	if l.Start != 0x1000 || l.Opened != 3 || l.Attrs["wal_segment_size"] != "16777216" {
		t.Errorf("listed as %+v", l)
	}
	again := openStore(t, vfs.OS(), dir, StoreConfig{})
	bases := again.Bases()
	if len(bases) != 1 || bases[0].Name != l.Name || len(again.Faults()) != 0 {
		t.Fatalf("reopened: %d bases, faults %v", len(bases), again.Faults())
	}
	if err := equal(again, bases[0], small()); err != nil {
		t.Fatal(err)
	}
	// The same once more is the same base.
	if l2, err := put(again, small(), 1, nil, nil); err != nil || l2.Name != l.Name || len(again.Bases()) != 1 {
		t.Errorf("again: %v, %d bases", err, len(again.Bases()))
	}
}

// TestSecondBaseStoresWhatChanged is the measure of the format: of a base of noise,
// which does not compress, a second one after a change of one per cent in a row may
// store two per cent, and one after changes here and there twice the pages.
func TestSecondBaseStoresWhatChanged(t *testing.T) {
	if racetest.Apart(t) {
		return
	}
	const size, files = 16 << 20, 4
	first := tree{}
	for i := range files {
		first["base/5/"+string(rune('a'+i))] = noise(uint64(i), size)
	}
	s := openStore(t, vfs.OS(), t.TempDir(), StoreConfig{})
	mustPut(t, s, first, 1)
	whole := diskBytes(t, s)
	t.Logf("first base: %d bytes in %d", size*files, whole)
	if whole > size*files*102/100 {
		t.Errorf("first base of %d bytes takes %d", size*files, whole)
	}

	row := clone(first)
	const changed = size * files / 100
	copy(row["base/5/b"][5_000_000:], noise(99, changed))
	l := mustPut(t, s, row, 1)
	after := diskBytes(t, s)
	grew := after - whole
	t.Logf("1 %% in a row: %d bytes changed, %d stored: %.2f %% of the base", changed, grew, 100*float64(grew)/(size*files))
	if grew > size*files*2/100 {
		t.Errorf("stored %d bytes, want at most %d", grew, size*files*2/100)
	}
	if err := equal(s, l, row); err != nil {
		t.Fatal(err)
	}

	for _, pages := range []int{10, 100, 2000} {
		random := clone(row)
		rng := rand.New(rand.NewPCG(1, uint64(pages)))
		touched := map[int]bool{}
		for len(touched) < pages {
			touched[rng.IntN(size*files/PageBytes)] = true
		}
		for p := range touched {
			random["base/5/"+string(rune('a'+p%files))][p/files*PageBytes+rng.IntN(PageBytes)]++
		}
		l := mustPut(t, s, random, 1)
		now := diskBytes(t, s)
		grew, after = now-after, now
		t.Logf("%d of %d pages: %d bytes stored: %.2f of the pages", pages, size*files/PageBytes, grew, float64(grew)/float64(pages*PageBytes))
		if grew > int64(2*pages*PageBytes) {
			t.Errorf("%d pages: stored %d bytes, want at most %d", pages, grew, 2*pages*PageBytes)
		}
		if err := equal(s, l, random); err != nil {
			t.Fatal(err)
		}
		row = random
	}
}

// diskBytes is everything that the store has on the disk, manifests and indexes
// included.
func diskBytes(t *testing.T, s *Store) (sum int64) {
	t.Helper()
	for _, dir := range []string{packsDir, basesDir} {
		names, err := s.fsys.List(filepath.Join(s.dir, dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			info, err := s.fsys.Stat(filepath.Join(s.dir, dir, n))
			if err != nil {
				t.Fatal(err)
			}
			sum += info.Size
		}
	}
	return sum
}

func clone(t tree) tree {
	out := tree{}
	for p, b := range t {
		out[p] = slices.Clone(b)
	}
	return out
}

var errCut = errors.New("the link was cut")

// cutSink fails from the n-th extent on.
type cutSink struct {
	Sink
	left *atomic.Int64
}

func (c cutSink) Put(ctx context.Context, place uint64, x *Extent, pages Pages) (Put, error) {
	if c.left.Add(-1) < 0 {
		return Put{}, errCut
	}
	return c.Sink.Put(ctx, place, x, pages)
}

// TestResumeAtEveryExtent cuts a transfer off after each extent and goes on in
// another process: nothing is given twice.
func TestResumeAtEveryExtent(t *testing.T) {
	if racetest.Apart(t) {
		return
	}
	content := small()
	var unique int64
	{
		var m Meter
		s := openStore(t, vfs.NewMem(), "/base", StoreConfig{})
		if _, err := put(s, content, 1, nil, &m); err != nil {
			t.Fatal(err)
		}
		unique = m.Progress().Needed
	}
	for n := int64(0); ; n++ {
		mem := vfs.NewMem()
		var first, second Meter
		left := &atomic.Int64{}
		left.Store(n)
		_, err := put(openStore(t, mem, "/base", StoreConfig{}), content, 1, func(s Sink) Sink { return cutSink{s, left} }, &first)
		if err == nil {
			t.Logf("%d extents", n)
			return
		}
		if !errors.Is(err, errCut) {
			t.Fatalf("cut after %d: %v", n, err)
		}
		s := openStore(t, mem, "/base", StoreConfig{})
		if len(s.Bases()) != 0 {
			t.Fatalf("cut after %d: half a base is listed", n)
		}
		l, err := put(s, content, 1, nil, &second)
		if err != nil {
			t.Fatalf("cut after %d: %v", n, err)
		}
		if err := equal(s, l, content); err != nil {
			t.Fatalf("cut after %d: %v", n, err)
		}
		if sum := first.Progress().Needed + second.Progress().Needed; sum > unique {
			t.Errorf("cut after %d: %d bytes were given, %d are there", n, sum, unique)
		}
	}
}

// TestCrashAtEveryOp stops the machine before each operation: what was committed
// is there and whole, what was not is not listed or whole, and going on completes it.
func TestCrashAtEveryOp(t *testing.T) {
	content := tree{"a": noise(1, 3*PageBytes), "dir/b": noise(2, 5*PageBytes+5), "c": []byte("c")}
	for n := int64(0); ; n++ {
		mem := vfs.NewMem()
		fault := vfs.CrashAt(n)
		committed := func() bool {
			s, err := Open(vfs.Inject(mem, fault.Inject), "/base", smallPacks)
			if err != nil {
				return false
			}
			defer s.Close()
			_, err = put(s, content, 1, nil, nil)
			return err == nil
		}()
		for seed := range int64(4) {
			s := openStore(t, mem.CrashClone(seed), "/base", StoreConfig{})
			bases := s.Bases()
			if committed && len(bases) != 1 {
				t.Fatalf("op %d %+v seed %d: was committed, %d bases, faults %v", n, fault.Op(), seed, len(bases), s.Faults())
			}
			for _, l := range bases {
				if err := equal(s, l, content); err != nil {
					t.Fatalf("op %d seed %d: listed and not whole: %v", n, seed, err)
				}
			}
			l, err := put(s, content, 1, nil, nil)
			if err != nil {
				t.Fatalf("op %d seed %d: going on: %v", n, seed, err)
			}
			if err := equal(s, l, content); err != nil {
				t.Fatalf("op %d seed %d: %v", n, seed, err)
			}
		}
		if !fault.Fired() {
			t.Logf("%d operations", n)
			return
		}
	}
}

// smallPacks has a store sync after each extent and begin another pack.
var smallPacks = StoreConfig{SyncBytes: 16 << 10, PackBytes: 16 << 10}

// TestFaultAtEveryOp fails one operation: the error surfaces, and a store that is
// opened anew goes on.
func TestFaultAtEveryOp(t *testing.T) {
	content := tree{"a": noise(1, 3*PageBytes), "dir/b": noise(2, 5*PageBytes+5)}
	for _, cause := range []error{vfs.ErrIO, vfs.Partial(vfs.ErrNoSpace)} {
		for n := int64(0); ; n++ {
			mem := vfs.NewMem()
			fault := vfs.OnIndex(n, cause)
			s, err := Open(vfs.Inject(mem, fault.Inject), "/base", smallPacks)
			if err == nil {
				_, err = put(s, content, 1, nil, nil)
				s.Close()
			}
			if !fault.Fired() {
				break
			}
			again := openStore(t, mem, "/base", StoreConfig{})
			if err == nil && len(again.Bases()) != 1 {
				t.Fatalf("op %d %+v: no error, and no base", n, fault.Op())
			}
			l, err := put(again, content, 1, nil, nil)
			if err != nil {
				t.Fatalf("op %d %+v: going on: %v", n, fault.Op(), err)
			}
			if err := equal(again, l, content); err != nil {
				t.Fatalf("op %d: %v", n, err)
			}
		}
	}
}

// TestDamageIsFoundAndBroughtAgain flips bits all over a pack: a base that rests on
// them is not committed, nothing wrong is ever read, and one more transfer heals it.
func TestDamageIsFoundAndBroughtAgain(t *testing.T) {
	if racetest.Apart(t) {
		return
	}
	content := tree{"a": noise(1, 40*PageBytes), "b": noise(2, 3*PageBytes)}
	changed := clone(content)
	changed["a"][70_000]++
	mem := vfs.NewMem()
	s, err := Open(mem, "/base", StoreConfig{})
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, content, 1)
	s.Close()
	const pack = "/base/packs/0000000000000001.pack"
	info, err := mem.Stat(pack)
	if err != nil {
		t.Fatal(err)
	}
	healed, refused := 0, 0
	for at := int64(packHeaderSize); at < info.Size; at += info.Size / 97 {
		disk := mem.CrashClone(vfs.CrashKeepAll)
		if err := disk.FlipBit(pack, at*8); err != nil {
			t.Fatal(err)
		}
		s := openStore(t, disk, "/base", StoreConfig{})
		for _, l := range s.Bases() {
			if err := equal(s, l, content); err == nil {
				t.Errorf("bit at %d: the damage was not found", at)
			} else if tidegate.ClassOf(err) != tidegate.Corrupt {
				t.Errorf("bit at %d: %v", at, err)
			}
		}
		for range 3 {
			l, err := put(s, changed, 1, nil, nil)
			if err == nil {
				if err := equal(s, l, changed); err != nil {
					t.Errorf("bit at %d: listed and not whole: %v", at, err)
				}
				healed++
				break
			}
			if tidegate.ClassOf(err) != tidegate.Corrupt {
				t.Fatalf("bit at %d: %v", at, err)
			}
			refused++
		}
	}
	t.Logf("%d healed, after %d refusals", healed, refused)
	if healed < 90 || refused == 0 {
		t.Errorf("%d healed, %d refused", healed, refused)
	}
}

func TestOneWriterAtATime(t *testing.T) {
	mem := vfs.NewMem()
	a, b := openStore(t, mem, "/base", StoreConfig{}), openStore(t, mem, "/base", StoreConfig{})
	in, err := a.Intake()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Intake(); !errors.Is(err, tidegate.ErrConflict) {
		t.Errorf("a second writer: %v", err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	mustPut(t, b, small(), 1)
	// What another has written is found by the next intake.
	var m Meter
	if _, err := put(a, small(), 1, nil, &m); err != nil || m.Progress().Needed != 0 {
		t.Errorf("after the other: %v, %d bytes needed", err, m.Progress().Needed)
	}
}

// TestSeedFromDirectory fills a store from an older copy on this machine: the base
// then brings only what differs.
func TestSeedFromDirectory(t *testing.T) {
	root := t.TempDir()
	outside := t.TempDir()
	content := tree{"base/5/1": noise(1, 3*ExtentBytes), "global/pg_control": noise(2, PageBytes), "pg_tblspc/16384/PG_15/5/2": noise(3, ExtentBytes)}
	for p, b := range content {
		at := filepath.Join(root, p)
		if rest, ok := strings.CutPrefix(p, "pg_tblspc/16384/"); ok {
			at = filepath.Join(outside, rest)
		}
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "pg_tblspc"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(root, "pg_tblspc/16384")); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, vfs.OS(), t.TempDir(), StoreConfig{})
	in, err := s.Intake()
	if err != nil {
		t.Fatal(err)
	}
	var meter, then Meter
	if _, err := Build(t.Context(), in, BuildConfig{Meter: &meter}, Info{Stream: theStream, Generation: 1}, Directory(root, &meter)); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if p := meter.Progress(); p.Files != 3 || p.Bytes != p.Total || p.Total != int64(4*ExtentBytes+PageBytes) {
		t.Errorf("progress %+v", p)
	}
	if len(s.Bases()) != 0 {
		t.Error("a seed counts as a base")
	}
	content["base/5/1"][12345]++
	l, err := put(s, content, 1, nil, &then)
	if err != nil {
		t.Fatal(err)
	}
	if got := then.Progress().Needed; got != PageBytes {
		t.Errorf("%d bytes needed after the seed, one page differs", got)
	}
	if err := equal(s, l, content); err != nil {
		t.Error(err)
	}
}

// TestGiveWhatIsStored hands a base from one store to another: payloads go as they
// are stored, whole or, where the other has pages already, anew.
func TestGiveWhatIsStored(t *testing.T) {
	content := small()
	from, to := openStore(t, vfs.NewMem(), "/a", StoreConfig{}), openStore(t, vfs.NewMem(), "/b", StoreConfig{})
	old := clone(content)
	old["base/5/1259"][3*PageBytes]++
	old["base/5/1259"][ExtentBytes]++
	mustPut(t, from, old, 1)
	l := mustPut(t, from, content, 1)
	older := clone(content)
	older["base/5/1259"][9*PageBytes]++
	mustPut(t, to, older, 1)
	in, err := to.Intake()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	raw, m, err := from.Manifest(l)
	if err != nil {
		t.Fatal(err)
	}
	var meter Meter
	if err := from.Giver(3).GiveAll(t.Context(), in, m, &meter); err != nil {
		t.Fatal(err)
	}
	got, err := in.Commit(t.Context(), raw, func(Info) error { return nil })
	if err != nil || got.Name != l.Name {
		t.Fatalf("%v, %s", err, got.Name)
	}
	if err := equal(to, got, content); err != nil {
		t.Fatal(err)
	}
	if p := meter.Progress(); p.Needed != PageBytes {
		t.Errorf("%d bytes needed, one page differs", p.Needed)
	}
}

func TestRefusals(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "/base", StoreConfig{})
	in, err := s.Intake()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var x Extent
	x.Cut(noise(1, 3*PageBytes))
	o, err := in.Offer(7, &x)
	if err != nil || o.Need.Count() != 3 {
		t.Fatalf("%v, %d pages", err, o.Need.Count())
	}
	wrong := noise(2, 3*PageBytes)
	if err := in.Take(o, Payload{Plain, wrong}); tidegate.ClassOf(err) != tidegate.Corrupt || s.Has(x.Name) {
		t.Errorf("other pages than were named: %v", err)
	}
	if err := in.Take(o, Payload{Zstd, wrong}); tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("pages that do not decompress: %v", err)
	}
	if err := in.Take(o, Payload{Plain, noise(1, 3*PageBytes)}); err != nil || !s.Has(x.Name) {
		t.Errorf("the right ones after that: %v", err)
	}
	forged := x
	forged.Name[0]++
	if _, err := in.Offer(8, &forged); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("an extent under another name: %v", err)
	}
	m := &Manifest{Info: Info{Stream: theStream, Generation: 1}, Files: []File{{Path: "f", Kind: KindFile, Size: 9}}, Extents: [][]Name{{{1}}}}
	b, _, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Commit(t.Context(), b, func(Info) error { return nil }); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("a manifest of what is not there: %v", err)
	}
	// The right bytes in a file of another length: the last page would be cut off.
	m.Files[0].Size, m.Extents[0][0] = 2*PageBytes, x.Name
	if b, _, err = m.Encode(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Commit(t.Context(), b, func(Info) error { return nil }); tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("a file shorter than its extent: %v", err)
	}
	for _, f := range []File{
		{Path: "/abs", Kind: KindFile},
		{Path: "../up", Kind: KindFile},
		{Path: "a/../b", Kind: KindFile},
		{Path: "", Kind: KindFile},
		{Path: "f", Kind: 9},
		{Path: "f", Kind: KindLink},
		{Path: "f", Kind: KindDir, Size: 1},
		{Path: "f", Kind: KindFile, Link: "x"},
	} {
		if _, _, err := (&Manifest{Info: m.Info, Files: []File{f}, Extents: [][]Name{nil}}).Encode(); err == nil {
			t.Errorf("%+v is allowed", f)
		}
	}
	through := &Manifest{Info: m.Info, Files: []File{{Path: "l", Kind: KindLink, Link: "/etc"}, {Path: "l/passwd", Kind: KindFile}}, Extents: [][]Name{nil, nil}}
	if _, _, err := through.Encode(); err == nil {
		t.Error("a file below a link is allowed")
	}
}

func TestBuildEndsWithItsWriter(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "/base", StoreConfig{})
	in, err := s.Intake()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for name, fill := range map[string]func(context.Context, Writer) (Base, error){
		"short": func(ctx context.Context, w Writer) (Base, error) {
			f, err := w.Create(ctx, File{Path: "f", Kind: KindFile, Size: 10})
			if err != nil {
				return Base{}, err
			}
			_, err = f.Write([]byte("123"))
			return Base{}, errors.Join(err, f.Close())
		},
		"long": func(ctx context.Context, w Writer) (Base, error) {
			f, err := w.Create(ctx, File{Path: "f", Kind: KindFile, Size: 1})
			if err != nil {
				return Base{}, err
			}
			_, err = f.Write([]byte("123"))
			return Base{}, err
		},
		"open": func(ctx context.Context, w Writer) (Base, error) {
			_, err := w.Create(ctx, File{Path: "f", Kind: KindFile})
			return Base{}, err
		},
	} {
		if _, err := Build(t.Context(), in, BuildConfig{}, Info{Stream: theStream, Generation: 1}, fill); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Build(ctx, in, BuildConfig{InFlight: 1}, Info{Stream: theStream, Generation: 1}, tree{"f": noise(1, 9*ExtentBytes)}.fill); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func BenchmarkBuild(b *testing.B) {
	for name, content := range map[string]tree{
		"noise": {"f": noise(1, 64<<20)},
		"rows":  {"f": bytes.Repeat([]byte("00000042 a row of a table, rather like the next one  "), 64<<20/53)},
	} {
		b.Run("data="+name, func(b *testing.B) {
			b.SetBytes(int64(len(content["f"])))
			b.ReportAllocs()
			for b.Loop() {
				s := openStore(b, vfs.OS(), b.TempDir(), StoreConfig{})
				mustPut(b, s, content, 1)
			}
		})
	}
}
