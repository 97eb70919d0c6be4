package buckettest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tidegate/tidegate/archive/bucket"
)

// listed puts more than one page of objects and looks at them from several places.
func listed(t *testing.T, p Place) {
	b := p.Open(t)
	var want []string
	for i := range p.Page*2 + 3 {
		// Parts that sort otherwise than the whole names do: '-' < '/' < '0'.
		for _, form := range []string{"x/%03d", "x-%03d", "x0%03d"} {
			want = append(want, fmt.Sprintf(form, i))
		}
	}
	putAll(t, b, want)
	slices.Sort(want)
	if got := list(t, b, "", ""); !slices.Equal(got, want) {
		t.Errorf("got %d names, want %d: %q", len(got), len(want), got)
	}
	for i := 0; i < len(want); i += 5 {
		if got := list(t, b, "", want[i]); !slices.Equal(got, want[i+1:]) {
			t.Errorf("after %s: %q", want[i], got)
		}
	}
	var first []string
	for o, err := range b.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if o.Size != 1 || o.Modified.IsZero() {
			t.Errorf("%+v", o)
		}
		if first = append(first, o.Name); len(first) == p.Page+1 {
			break
		}
	}
	if !slices.Equal(first, want[:len(first)]) {
		t.Errorf("the first: %q", first)
	}
}

// putAll puts objects of one byte, several at a time.
func putAll(t *testing.T, b bucket.Bucket, names []string) {
	t.Helper()
	var wait sync.WaitGroup
	next := make(chan string)
	for range 8 {
		wait.Go(func() {
			for name := range next {
				if _, err := b.Put(t.Context(), name, body("x"), bucket.PutOptions{}); err != nil {
					t.Errorf("put %s: %v", name, err)
				}
			}
		})
	}
	for _, name := range names {
		next <- name
	}
	close(next)
	wait.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func listedPart(t *testing.T, p Place) {
	b := p.Open(t)
	all := []string{"a/b/c", "a/b/d", "a/b-x", "a/bb", "a/e/f/g", "a/e/h", "a0", "b/c", "zz"}
	putAll(t, b, all)
	slices.Sort(all)
	for _, prefix := range []string{"", "a", "a/", "a/b", "a/b/", "a/b/c", "a/b/c/", "a/e/f", "b", "b/d", "z", "zzz"} {
		for _, after := range []string{"", "a", "a/b", "a/b/", "a/b/c", "a/b0", "a/e/", "a/zzz", "b/c", "zzzz"} {
			var want []string
			for _, name := range all {
				if strings.HasPrefix(name, prefix) && name > after {
					want = append(want, name)
				}
			}
			if got := list(t, b, prefix, after); !slices.Equal(got, want) {
				t.Errorf("prefix %q after %q: %q, want %q", prefix, after, got, want)
			}
		}
	}
}
