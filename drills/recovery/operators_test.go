package recovery_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/recovery"
)

// operator is what the examples have in common: numbers in, texts out.
type operator interface {
	reset()
	feed(n uint64, at tidegate.Position) []string
	state() string
}

// filter lets multiples of three pass.
type filter struct{}

func (filter) reset()        {}
func (filter) state() string { return "" }
func (filter) feed(n uint64, _ tidegate.Position) []string {
	if n%3 != 0 {
		return nil
	}
	return []string{fmt.Sprint("passes ", n)}
}

// tumbling sums up windows of size inputs. aligned: windows end at inputs whose position
// says so; otherwise they begin with the first input it sees.
type tumbling struct {
	size    uint64
	aligned bool
	sum, n  uint64
}

func (t *tumbling) reset()        { t.sum, t.n = 0, 0 }
func (t *tumbling) state() string { return fmt.Sprint(t.sum, t.n) }
func (t *tumbling) feed(n uint64, at tidegate.Position) []string {
	t.sum += n
	t.n++
	if t.aligned && uint64(at)%t.size != t.size-1 || !t.aligned && t.n < t.size {
		return nil
	}
	out := []string{fmt.Sprint("sum ", t.sum), fmt.Sprint("closed by ", n)}
	t.reset()
	return out
}

// average gives the sum of the last size inputs.
type average struct {
	size int
	last []uint64
}

func (a *average) reset()        { a.last = nil }
func (a *average) state() string { return fmt.Sprint(a.last) }
func (a *average) feed(n uint64, _ tidegate.Position) []string {
	a.last = append(a.last, n)
	a.last = a.last[max(0, len(a.last)-a.size):]
	var sum uint64
	for _, n := range a.last {
		sum += n
	}
	return []string{fmt.Sprint("average ", sum, "/", a.size)}
}

// total gives the sum of all inputs.
type total struct{ sum uint64 }

func (t *total) reset()        { t.sum = 0 }
func (t *total) state() string { return fmt.Sprint(t.sum) }
func (t *total) feed(n uint64, _ tidegate.Position) []string {
	t.sum += n
	return []string{fmt.Sprint("total ", t.sum)}
}

// sampler gives the hour of day with each input.
type sampler struct{ now func() time.Time }

func (sampler) reset()        {}
func (sampler) state() string { return "" }
func (s sampler) feed(n uint64, _ tidegate.Position) []string {
	return []string{fmt.Sprint(n, " at ", s.now().Format("15h"))}
}

// tested is an operator as the test of its class drives it.
type tested struct {
	operator

	closed *int
}

func (t tested) Reset() error { t.reset(); return nil }
func (t tested) Close() error { *t.closed++; return nil }
func (t tested) State() tidegate.Digest {
	if s := t.state(); s != "" {
		return recovery.DigestOf([]byte(s))
	}
	return tidegate.Digest{}
}

func (t tested) Feed(in recovery.Input) (out []tidegate.Digest, err error) {
	for _, text := range t.feed(binary.LittleEndian.Uint64(in.Payload), in.Position) {
		out = append(out, recovery.DigestOf([]byte(text)))
	}
	return out, nil
}

// kept is a total whose state can be written down.
type kept struct{ tested }

func (k kept) Snapshot() ([]byte, error) {
	return binary.LittleEndian.AppendUint64(nil, k.operator.(*total).sum), nil
}

func (k kept) Restore(state []byte) error {
	k.operator.(*total).sum = binary.LittleEndian.Uint64(state)
	return nil
}

// forgetful writes down less than it is.
type forgetful struct{ kept }

func (f forgetful) Snapshot() ([]byte, error) {
	state, err := f.kept.Snapshot()
	return slices.Concat(state[:1], bytes.Repeat([]byte{0}, 7)), err
}
