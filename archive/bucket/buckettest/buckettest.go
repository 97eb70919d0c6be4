package buckettest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
)

// Place is where the suite works.
type Place struct {
	// Open returns a bucket, empty at the first call of a test. Every further call
	// of that test opens the same one, as another process would.
	Open func(t *testing.T) bucket.Bucket
	// Large is a size in bytes that the driver does not send in one piece.
	Large int64
	// Page is how many objects the driver lists at a time; the suite lists more.
	Page int
}

// Run checks a driver. place is called once for each test.
func Run(t *testing.T, place func(t *testing.T) Place) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, Place){
		"put, get, stat and remove":        putGetStatRemove,
		"replaced whole":                   replaced,
		"ranges":                           ranges,
		"large objects":                    large,
		"missing objects":                  missing,
		"names":                            names,
		"listed in order":                  listed,
		"listed by prefix and after":       listedPart,
		"if absent":                        ifAbsent,
		"if it matches":                    ifMatch,
		"of many writers one wins":         race,
		"of many large ones one wins":      raceLarge,
		"of many who replace it, one does": raceMatch,
		"short body":                       shortBody,
		"ended by its context":             ended,
		"probed":                           probed,
	} {
		t.Run(name, func(t *testing.T) { test(t, place(t)) })
	}
}

func body(s string) bucket.Body { return strings.NewReader(s) }

func put(t *testing.T, b bucket.Bucket, name, text string, o bucket.PutOptions) bucket.Object {
	t.Helper()
	obj, err := b.Put(t.Context(), name, body(text), o)
	if err != nil {
		t.Fatalf("put %s: %v", name, err)
	}
	return obj
}

func get(t *testing.T, b bucket.Bucket, name string, off, n int64) string {
	t.Helper()
	r, err := b.Get(t.Context(), name, off, n)
	if err != nil {
		t.Fatalf("get %s: %v", name, err)
	}
	data, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatalf("get %s: %v", name, err)
	}
	return string(data)
}

func list(t *testing.T, b bucket.Bucket, prefix, after string) []string {
	t.Helper()
	var names []string
	for o, err := range b.List(t.Context(), prefix, after) {
		if err != nil {
			t.Fatalf("list %q after %q: %v", prefix, after, err)
		}
		names = append(names, o.Name)
	}
	return names
}

func wantIs(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("got error %v, want %v", got, want)
	}
}

func wantClass(t *testing.T, got error, want tidegate.Class) {
	t.Helper()
	if got == nil || tidegate.ClassOf(got) != want {
		t.Fatalf("got error %v of class %q, want class %q", got, tidegate.ClassOf(got), want)
	}
}

// wantConflict also asks for the class: as a transient error it would be tried again.
func wantConflict(t *testing.T, got error) {
	t.Helper()
	wantIs(t, got, tidegate.ErrConflict)
	wantClass(t, got, tidegate.Refused)
}

func putGetStatRemove(t *testing.T, p Place) {
	b := p.Open(t)
	for _, text := range []string{"", "x", "some text", strings.Repeat("0123456789abcdef", 20_000)} {
		o := put(t, b, "a/b/c", text, bucket.PutOptions{})
		if o.Name != "a/b/c" || o.Size != int64(len(text)) {
			t.Errorf("put %d bytes: %+v", len(text), o)
		}
		if got := get(t, p.Open(t), "a/b/c", 0, -1); got != text {
			t.Errorf("put %d bytes, got %d others", len(text), len(got))
		}
		s, err := p.Open(t).Stat(t.Context(), "a/b/c")
		if err != nil || s.Name != "a/b/c" || s.Size != int64(len(text)) || s.Tag != o.Tag || s.Modified.IsZero() || !s.RetainUntil.IsZero() {
			t.Errorf("stat: %+v, %v; put gave %+v", s, err, o)
		}
	}
	for range 2 { // the second time it is missing, which is no error
		if err := b.Remove(t.Context(), "a/b/c"); err != nil {
			t.Fatal(err)
		}
		_, err := p.Open(t).Stat(t.Context(), "a/b/c")
		wantIs(t, err, tidegate.ErrNotFound)
	}
	if got := list(t, b, "", ""); len(got) != 0 {
		t.Errorf("after the last was removed: %q", got)
	}
}

func replaced(t *testing.T, p Place) {
	b := p.Open(t)
	put(t, b, "it", "a rather long text", bucket.PutOptions{})
	r, err := b.Get(t.Context(), "it", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	put(t, b, "it", "short", bucket.PutOptions{})
	if got := get(t, b, "it", 0, -1); got != "short" {
		t.Errorf("got %q", got)
	}
	old, err := io.ReadAll(r)
	if got := string(old); err == nil && got != "a rather long text" && got != "short" {
		t.Errorf("a reader of before got a mixture: %q", got)
	}
	r.Close()
}

func ranges(t *testing.T, p Place) {
	b := p.Open(t)
	const text = "0123456789"
	put(t, b, "it", text, bucket.PutOptions{})
	put(t, b, "empty", "", bucket.PutOptions{})
	for _, c := range []struct{ off, n int64 }{{0, -1}, {0, 0}, {0, 1}, {0, 10}, {0, 11}, {3, 4}, {3, -1}, {9, 1}, {9, 5}, {10, -1}, {10, 0}, {10, 3}, {11, -1}, {50, 2}} {
		from := min(c.off, 10)
		to := int64(10)
		if c.n >= 0 {
			to = min(from+c.n, 10)
		}
		if got := get(t, b, "it", c.off, c.n); got != text[from:to] {
			t.Errorf("get %d, %d: %q, want %q", c.off, c.n, got, text[from:to])
		}
	}
	for _, n := range []int64{-1, 0, 1} {
		if got := get(t, b, "empty", 0, n); got != "" {
			t.Errorf("of an empty object: %q", got)
		}
	}
	_, err := b.Get(t.Context(), "it", -1, 1)
	wantClass(t, err, tidegate.Misuse)
}

// pattern are size bytes that differ everywhere, and by salt.
func pattern(size int64, salt byte) []byte {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{salt}).Read(data) // never fails
	return data
}

func large(t *testing.T, p Place) {
	b := p.Open(t)
	data := pattern(p.Large, 1)
	o, err := b.Put(t.Context(), "large", bytes.NewReader(data), bucket.PutOptions{})
	if err != nil || o.Size != p.Large {
		t.Fatalf("%+v, %v", o, err)
	}
	s, err := b.Stat(t.Context(), "large")
	if err != nil || s.Tag != o.Tag || s.Size != p.Large {
		t.Errorf("stat: %+v, %v; put gave %+v", s, err, o)
	}
	if got := get(t, b, "large", 0, -1); got != string(data) {
		t.Error("other bytes")
	}
	if got := get(t, b, "large", p.Large/2-7, 99); got != string(data[p.Large/2-7:][:99]) {
		t.Error("other bytes in a range")
	}
	if got := list(t, b, "", ""); !slices.Equal(got, []string{"large"}) {
		t.Errorf("listed: %q", got)
	}
}

func missing(t *testing.T, p Place) {
	b := p.Open(t)
	put(t, b, "a/b", "x", bucket.PutOptions{})
	for _, name := range []string{"a", "b", "a/b/c", "a/c"} {
		_, err := b.Get(t.Context(), name, 0, -1)
		wantIs(t, err, tidegate.ErrNotFound)
		_, err = b.Get(t.Context(), name, 0, 0)
		wantIs(t, err, tidegate.ErrNotFound)
		_, err = b.Stat(t.Context(), name)
		wantIs(t, err, tidegate.ErrNotFound)
		if err := b.Remove(t.Context(), name); err != nil {
			t.Errorf("remove %s: %v", name, err)
		}
	}
	if got := list(t, b, "none/", ""); len(got) != 0 {
		t.Errorf("listed: %q", got)
	}
	if got := list(t, b, "", ""); !slices.Equal(got, []string{"a/b"}) {
		t.Errorf("listed: %q", got)
	}
}

func names(t *testing.T, p Place) {
	b := p.Open(t)
	good := []string{
		"a", "A", "0/1/2/3/4/5/6/7", "a.b-c_d", "a+b=c,d@e:f~g", "(x)!*'", "per%cent%20/per%2Fcent", "q?u#e&r;y", `"quoted"<>|^{}[]$` + "`",
		strings.Repeat("p", bucket.PartMax) + "/" + strings.Repeat("q", bucket.PartMax),
	}
	for _, name := range good {
		put(t, b, name, name, bucket.PutOptions{})
	}
	for _, name := range good {
		if got := get(t, b, name, 0, -1); got != name {
			t.Errorf("%s: %q", name, got)
		}
	}
	slices.Sort(good)
	if got := list(t, b, "", ""); !slices.Equal(got, good) {
		t.Errorf("listed: %q, want %q", got, good)
	}
	for _, name := range good {
		if err := b.Remove(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	if got := list(t, b, "", ""); len(got) != 0 {
		t.Errorf("listed: %q", got)
	}
	for _, name := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.b", ".a", "a b", "a\\b", "a\x00", "ü", strings.Repeat("n", bucket.PartMax+1), strings.Repeat("n/", bucket.NameMax/2) + "m"} {
		_, err := b.Put(t.Context(), name, body(""), bucket.PutOptions{})
		wantClass(t, err, tidegate.Misuse)
		_, err = b.Get(t.Context(), name, 0, -1)
		wantClass(t, err, tidegate.Misuse)
		_, err = b.Stat(t.Context(), name)
		wantClass(t, err, tidegate.Misuse)
		wantClass(t, b.Remove(t.Context(), name), tidegate.Misuse)
	}
	for _, prefix := range []string{"/", "a//", "..", "a/..", "a b", "a\\"} {
		for _, err := range b.List(t.Context(), prefix, "") {
			wantClass(t, err, tidegate.Misuse)
		}
	}
}

func shortBody(t *testing.T, p Place) {
	b := p.Open(t)
	put(t, b, "it", "before", bucket.PutOptions{})
	for _, size := range []int64{10, p.Large} {
		for _, name := range []string{"it", "new"} {
			_, err := b.Put(t.Context(), name, cutBody{size: size, left: size - 3}, bucket.PutOptions{})
			if err == nil {
				t.Fatalf("a body of %d bytes that is 3 short was taken", size)
			}
		}
	}
	if got := get(t, b, "it", 0, -1); got != "before" {
		t.Errorf("got %q", got)
	}
	_, err := b.Stat(t.Context(), "new")
	wantIs(t, err, tidegate.ErrNotFound)
	if got := list(t, b, "", ""); !slices.Equal(got, []string{"it"}) {
		t.Errorf("listed: %q", got)
	}
}

// cutBody says that it has size bytes and has left.
type cutBody struct{ size, left int64 }

func (c cutBody) Size() int64 { return c.size }

func (c cutBody) ReadAt(p []byte, off int64) (int, error) {
	n := int(min(int64(len(p)), max(c.left-off, 0)))
	clear(p[:n])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func ended(t *testing.T, p Place) {
	b := p.Open(t)
	put(t, b, "it", "before", bucket.PutOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.Put(ctx, "it", body("after"), bucket.PutOptions{})
	wantIs(t, err, context.Canceled)
	_, err = b.Put(ctx, "it", bytes.NewReader(pattern(p.Large, 2)), bucket.PutOptions{})
	wantIs(t, err, context.Canceled)
	_, err = b.Stat(ctx, "it")
	wantIs(t, err, context.Canceled)
	if r, err := b.Get(ctx, "it", 0, -1); err == nil {
		_, err = io.ReadAll(r)
		wantIs(t, err, context.Canceled)
		r.Close()
	} else {
		wantIs(t, err, context.Canceled)
	}
	wantIs(t, b.Remove(ctx, "it"), context.Canceled)
	for _, err := range b.List(ctx, "", "") {
		wantIs(t, err, context.Canceled)
	}
	if got := get(t, b, "it", 0, -1); got != "before" {
		t.Errorf("got %q", got)
	}
}

func probed(t *testing.T, p Place) {
	for range 2 {
		f, err := bucket.Probe(t.Context(), p.Open(t))
		if want := (bucket.Features{IfAbsent: true, IfMatch: true}); err != nil || f != want {
			t.Errorf("%+v, %v; want %+v", f, err, want)
		}
	}
}
