package lab

import (
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
)

func TestLinksTakeOnlyWhatComesNext(t *testing.T) {
	good := []batch.Header{
		{Seq: 1, Epoch: 1, Generation: 1, First: 0, Next: 10},
		{Seq: 2, Epoch: 1, Generation: 1, First: 10, Next: 10},
		{Seq: 3, Epoch: 3, Generation: 1, First: 10, Next: 30},
	}
	for _, c := range []struct {
		spoil func(*batch.Header)
		want  string
	}{
		{func(*batch.Header) {}, ""},
		{func(h *batch.Header) { h.Seq = 4 }, "next comes batch"},
		{func(h *batch.Header) { h.Seq = 2 }, "next comes batch"},
		{func(h *batch.Header) { h.Epoch = 0 }, "below"},
		{func(h *batch.Header) { h.First = 11 }, "gap"},
		{func(h *batch.Header) { h.First = 9 }, "duplicate"},
	} {
		l := links{generation: 1}
		var err error
		for i, h := range good {
			if i == len(good)-1 {
				c.spoil(&h)
			}
			if err = l.take(&h); err != nil {
				break
			}
		}
		if c.want == "" && (err != nil || l.epochs != 2) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v with %d epochs, want %q", err, l.epochs, c.want)
		}
	}
}

func TestEqualAsFarAsBothGo(t *testing.T) {
	a := Chain{Node: "d1", Chains: []tidegate.Chain{{1}, {2}, {3}}}
	if err := a.Differ(Chain{Node: "d2", Chains: a.Chains[:2]}); err != nil {
		t.Error(err)
	}
	if err := a.Differ(Chain{Node: "d2", Chains: []tidegate.Chain{{1}, {9}}}); err == nil || !strings.Contains(err.Error(), "d1 and d2 differ at batch 0000000000000002") {
		t.Errorf("got %v", err)
	}
}
