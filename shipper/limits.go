package shipper

import (
	"errors"
	"fmt"
	"time"
)

// Limits bounds what a session may hold and how long it may wait. Both ends
// have their own; the acceptor's credit is announced in Attached.
type Limits struct {
	BatchBytesMax    int           `yaml:"batch_bytes_max"`   // one sealed batch, header included
	CreditBytes      int64         `yaml:"credit_bytes"`      // batches received and not yet taken over by the log
	PendingBytesMax  int           `yaml:"pending_bytes_max"` // frames that wait for a write in flight
	ConnectionsMax   int           `yaml:"connections_max"`   // of one acceptor
	KeepaliveEvery   time.Duration `yaml:"keepalive_every"`   // between a dialer's time exchanges
	IdleTimeout      time.Duration `yaml:"idle_timeout"`      // without a byte read, or without progress of a write
	HandshakeTimeout time.Duration `yaml:"handshake_timeout"` // from connect to Attached
}

// The default limits.
const (
	BatchBytesMaxDefault    = 8 << 20  // the largest unit that a source must be able to ship whole
	CreditBytesDefault      = 32 << 20 // 100 ms of a 2.5 Gbit/s crossing
	PendingBytesMaxDefault  = 1 << 20  // enough to fill the TLS records of the next write
	ConnectionsMaxDefault   = 256
	KeepaliveEveryDefault   = time.Second
	IdleTimeoutDefault      = 5 * time.Second // five time exchanges without an answer
	HandshakeTimeoutDefault = 10 * time.Second
)

// SetDefaults fills the fields that are zero.
func (l Limits) SetDefaults() Limits {
	setDefault(&l.BatchBytesMax, BatchBytesMaxDefault)
	setDefault(&l.CreditBytes, CreditBytesDefault)
	setDefault(&l.PendingBytesMax, PendingBytesMaxDefault)
	setDefault(&l.ConnectionsMax, ConnectionsMaxDefault)
	setDefault(&l.KeepaliveEvery, KeepaliveEveryDefault)
	setDefault(&l.IdleTimeout, IdleTimeoutDefault)
	setDefault(&l.HandshakeTimeout, HandshakeTimeoutDefault)
	return l
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// Validate reports every rule that is broken.
func (l Limits) Validate() error {
	var errs []error
	check := func(ok bool, key, rule string, got any) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s: %s (got %v)", key, rule, got))
		}
	}
	// Attached with a full tail of headers must fit, too.
	check(l.BatchBytesMax >= 16<<10, "batch_bytes_max", "want at least 16384", l.BatchBytesMax)
	check(l.PendingBytesMax >= 4096, "pending_bytes_max", "want at least 4096", l.PendingBytesMax)
	check(l.ConnectionsMax >= 1, "connections_max", "want at least 1", l.ConnectionsMax)
	// Credit is announced in quarters: with less than two batches of it a
	// sender could wait for a grant that the receiver has not announced yet.
	check(l.CreditBytes >= 2*int64(l.BatchBytesMax), "credit_bytes", "want at least twice batch_bytes_max", l.CreditBytes)
	check(l.KeepaliveEvery > 0, "keepalive_every", "want more than 0", l.KeepaliveEvery)
	check(l.IdleTimeout >= 2*l.KeepaliveEvery, "idle_timeout", "want at least twice keepalive_every", l.IdleTimeout)
	check(l.HandshakeTimeout > 0, "handshake_timeout", "want more than 0", l.HandshakeTimeout)
	return errors.Join(errs...)
}
