package buckettest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
)

// writers is how many go for one object at the same moment.
const writers = 16

func ifAbsent(t *testing.T, p Place) {
	b := p.Open(t)
	absent := bucket.PutOptions{IfAbsent: true}
	put(t, b, "it", "first", absent)
	_, err := p.Open(t).Put(t.Context(), "it", body("second"), absent)
	wantConflict(t, err)
	_, err = p.Open(t).Put(t.Context(), "it", bytes.NewReader(pattern(p.Large, 3)), absent)
	wantConflict(t, err)
	if got := get(t, b, "it", 0, -1); got != "first" {
		t.Errorf("got %.20q", got)
	}
	if err := b.Remove(t.Context(), "it"); err != nil {
		t.Fatal(err)
	}
	put(t, b, "it", "third", absent)
	_, err = b.Put(t.Context(), "it", body("x"), bucket.PutOptions{IfAbsent: true, IfMatch: "x"})
	wantClass(t, err, tidegate.Misuse)
}

func ifMatch(t *testing.T, p Place) {
	b := p.Open(t)
	one := put(t, b, "it", "one", bucket.PutOptions{})
	two := put(t, p.Open(t), "it", "two", bucket.PutOptions{IfMatch: one.Tag})
	if one.Tag == "" || one.Tag == two.Tag {
		t.Errorf("tags %q and %q", one.Tag, two.Tag)
	}
	_, err := p.Open(t).Put(t.Context(), "it", body("lost"), bucket.PutOptions{IfMatch: one.Tag})
	wantConflict(t, err)
	if got := get(t, b, "it", 0, -1); got != "two" {
		t.Errorf("got %q", got)
	}
	data, o, err := bucket.ReadAll(t.Context(), b, "it", 3)
	if err != nil || string(data) != "two" || o.Tag != two.Tag {
		t.Errorf("%q, %+v, %v; want the tag %q", data, o, err, two.Tag)
	}
	_, _, err = bucket.ReadAll(t.Context(), b, "it", 2)
	wantClass(t, err, tidegate.Corrupt)
	if err := b.Remove(t.Context(), "it"); err != nil {
		t.Fatal(err)
	}
	_, err = b.Put(t.Context(), "it", body("again"), bucket.PutOptions{IfMatch: two.Tag})
	wantConflict(t, err)
	_, err = b.Stat(t.Context(), "it")
	wantIs(t, err, tidegate.ErrNotFound)
}

// contend lets writers go for one object and returns who won.
func contend(t *testing.T, p Place, name string, data func(writer int) bucket.Body, o bucket.PutOptions) int {
	t.Helper()
	errs := make([]error, writers)
	var wait sync.WaitGroup
	start := make(chan struct{})
	for w := range writers {
		b := p.Open(t)
		wait.Go(func() {
			<-start
			_, errs[w] = b.Put(t.Context(), name, data(w), o)
		})
	}
	close(start)
	wait.Wait()
	winner, won := -1, 0
	for w, err := range errs {
		switch {
		case err == nil:
			winner = w
			won++
		case !errors.Is(err, tidegate.ErrConflict):
			t.Errorf("writer %d: %v", w, err)
		}
	}
	if won != 1 {
		t.Fatalf("%d of %d writers won", won, writers)
	}
	return winner
}

func race(t *testing.T, p Place) {
	for round := range 5 {
		name := fmt.Sprintf("race/%d", round)
		winner := contend(t, p, name, func(w int) bucket.Body { return body(strings.Repeat(fmt.Sprint(w, " "), 100)) }, bucket.PutOptions{IfAbsent: true})
		if got := get(t, p.Open(t), name, 0, -1); got != strings.Repeat(fmt.Sprint(winner, " "), 100) {
			t.Errorf("writer %d won, and it is %.10q", winner, got)
		}
	}
}

func raceLarge(t *testing.T, p Place) {
	winner := contend(t, p, "large", func(w int) bucket.Body { return bytes.NewReader(pattern(p.Large, byte(w))) }, bucket.PutOptions{IfAbsent: true})
	if got := get(t, p.Open(t), "large", 0, -1); got != string(pattern(p.Large, byte(winner))) {
		t.Errorf("writer %d won, and it is another's", winner)
	}
}

func raceMatch(t *testing.T, p Place) {
	o := put(t, p.Open(t), "lease", "nobody", bucket.PutOptions{})
	for range 5 {
		winner := contend(t, p, "lease", func(w int) bucket.Body { return body(fmt.Sprint("held by ", w, " after ", o.Tag)) }, bucket.PutOptions{IfMatch: o.Tag})
		if got := get(t, p.Open(t), "lease", 0, -1); got != fmt.Sprint("held by ", winner, " after ", o.Tag) {
			t.Errorf("writer %d won, and it is %q", winner, got)
		}
		var err error
		if o, err = p.Open(t).Stat(t.Context(), "lease"); err != nil {
			t.Fatal(err)
		}
	}
}
