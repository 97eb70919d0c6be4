package snapshot

import (
	"fmt"

	"github.com/tidegate/tidegate"
)

// sourcesMax is from how many others a record may take pages before what comes next
// at its place is stored whole again. What a base needs keeps alive what that took
// pages from, and so on: the pages of a place would otherwise stay for as long as
// one page of it never changes, which is for ever.
const sourcesMax = 8

// whole is an extent that is stored with all of its pages, although some are here.
type whole struct {
	of   Extent // that has the pages, whole
	here Need   // pages that come from it; the others are needed
}

// own returns the bytes of the record's payload.
func (o *Offered) own() int {
	n := o.Need.Bytes(&o.x)
	if o.whole != nil {
		n += o.whole.here.Bytes(&o.x)
	}
	return n
}

// store appends the record of an extent of which raw, which is p opened, holds the
// pages that were needed.
func (in *Intake) store(o *Offered, raw []byte, p Payload) error {
	if o.whole == nil || o.whole.here == (Need{}) {
		return in.append(o, p)
	}
	from := opener{s: in.s}
	old, err := from.read(o.whole.of.Name)
	if err != nil {
		if tidegate.ClassOf(err) == tidegate.Corrupt {
			in.s.forget(o.whole.of.Name, err) // offered again, all of it is needed
		}
		return fmt.Errorf("take pages of extent %.12s: %w", o.whole.of.Name, err)
	}
	at := make(map[Name][]byte, len(o.whole.of.Pages))
	for i, name := range o.whole.of.Pages {
		at[name] = old[i*PageBytes:][:o.whole.of.pageLen(i)]
	}
	all := make([]byte, 0, o.own())
	for i := range o.x.Pages { // in the order of their first use
		n := o.x.pageLen(i)
		switch {
		case o.whole.here.Has(i):
			all = append(all, at[o.x.Pages[i]]...)
		case o.Need.Has(i):
			all, raw = append(all, raw[:n]...), raw[n:]
		}
	}
	return in.append(o, in.s.codec.encode(nil, all))
}
