package bucket

import (
	"context"
	"time"
)

// Lock returns b with every object that is put [PutOptions].IfAbsent locked for so
// long from now on: those are written once, while what is replaced under a condition,
// such as a lease, would leave a locked version behind at every turn. now is the
// clock; the server's own decides when the time has come.
func Lock(b Bucket, d time.Duration, now func() time.Time) Bucket { return &locking{b, d, now} }

type locking struct {
	Bucket

	d   time.Duration
	now func() time.Time
}

// Put implements [Bucket].
func (l *locking) Put(ctx context.Context, name string, body Body, o PutOptions) (Object, error) {
	if o.IfAbsent && o.RetainUntil.IsZero() {
		o.RetainUntil = l.now().Add(l.d)
	}
	return l.Bucket.Put(ctx, name, body, o)
}
