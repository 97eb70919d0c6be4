package snapshot

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var theStream = tidegate.ID{0xaa}

// tree is a base in memory: content by path, in the order of paths.
type tree map[string][]byte

// noise is n bytes that do not compress, the same for the same seed.
func noise(seed uint64, n int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

func (t tree) paths() []string {
	var list []string
	for p := range t {
		list = append(list, p)
	}
	slices.Sort(list)
	return list
}

func (t tree) fill(ctx context.Context, w Writer) (Base, error) {
	if err := w.Add(File{Path: "dir", Kind: KindDir, Mode: 0o700}); err != nil {
		return Base{}, err
	}
	for _, p := range t.paths() {
		kind := KindFile
		if strings.HasSuffix(p, ".stream") {
			kind = KindStream
		}
		f, err := w.Create(ctx, File{Path: p, Kind: kind, Mode: 0o600, Size: int64(len(t[p]))})
		if err != nil {
			return Base{}, err
		}
		for rest := t[p]; len(rest) > 0; {
			n, err := f.Write(rest[:min(100_000, len(rest))])
			if err != nil {
				return Base{}, err
			}
			rest = rest[n:]
		}
		if err := f.Close(); err != nil {
			return Base{}, err
		}
	}
	if err := w.Add(File{Path: "link", Kind: KindLink, Mode: 0o777, Link: "dir"}); err != nil {
		return Base{}, err
	}
	return Base{Start: 0x1000, End: 0x2000, Lineage: "pg:7:1", Attrs: map[string]string{"wal_segment_size": "16777216"}}, nil
}

func openStore(t testing.TB, fsys vfs.FS, dir string, cfg StoreConfig) *Store {
	t.Helper()
	s, err := Open(fsys, dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// put builds the tree into the store, through wrap, and commits it.
func put(s *Store, content tree, g tidegate.Generation, wrap func(Sink) Sink, meter *Meter) (l Listed, err error) {
	in, err := s.Intake()
	if err != nil {
		return l, err
	}
	defer func() {
		if cerr := in.Close(); err == nil {
			err = cerr
		}
	}()
	var sink Sink = in
	if wrap != nil {
		sink = wrap(in)
	}
	m, err := Build(context.Background(), sink, BuildConfig{InFlight: 4, Meter: meter}, Info{Stream: theStream, Generation: g, Opened: 3, Taken: 99}, content.fill)
	if err != nil {
		return l, err
	}
	b, _, err := m.Encode()
	if err != nil {
		return l, err
	}
	return in.Commit(context.Background(), b, func(Info) error { return nil })
}

func mustPut(t testing.TB, s *Store, content tree, g tidegate.Generation) Listed {
	t.Helper()
	l, err := put(s, content, g, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// equal compares what the base gives back with content.
func equal(s *Store, l Listed, content tree) error {
	r, err := s.Reader(l)
	if err != nil {
		return err
	}
	defer r.Close()
	seen := 0
	for i, f := range r.Files() {
		if !f.filled() {
			continue
		}
		var b bytes.Buffer
		if err := r.Copy(context.Background(), i, &b); err != nil {
			return err
		}
		if !bytes.Equal(b.Bytes(), content[f.Path]) {
			return fmt.Errorf("%s: %d bytes differ from the %d that were written", f.Path, b.Len(), len(content[f.Path]))
		}
		seen++
	}
	if seen != len(content) {
		return fmt.Errorf("%d files, want %d", seen, len(content))
	}
	return nil
}

// small is a tree with every odd size, of a few extents.
func small() tree {
	return tree{
		"empty": nil, "one": []byte("x"), "dir/page": noise(1, PageBytes), "dir/page+1": noise(2, PageBytes+1),
		"empty.stream": nil, "state.stream": noise(6, 700_000),
		"base/5/1259": append(noise(3, 2*ExtentBytes), make([]byte, ExtentBytes+3*PageBytes+17)...),
		"twice":       append(noise(4, PageBytes), noise(4, PageBytes)...),
	}
}
