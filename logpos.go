package tidegate

import "fmt"

// LogPos is a place in a stream's batch log together with its proof: equal Seq
// and Chain on two nodes mean equal logs up to there. Epoch is that of the
// writer who first appended the batch. The zero value is the empty log.
type LogPos struct {
	Epoch Epoch `json:"epoch"`
	Seq   Seq   `json:"seq"`
	Chain Chain `json:"chain"`
}

func (p LogPos) String() string {
	return fmt.Sprintf("%s@%s/%.8s", p.Epoch, p.Seq, p.Chain)
}

// Order is the outcome of comparing two ends of a log. It is never a bare
// bool: two logs can be neither before nor after each other.
type Order int

// The four outcomes of [LogPos.Compare].
const (
	Before   Order = iota - 1 // the other end may extend this one
	Same                      // identical logs
	After                     // this end may extend the other one
	Diverged                  // same seq, different content
)

func (o Order) String() string {
	switch o {
	case Before:
		return "before"
	case Same:
		return "same"
	case After:
		return "after"
	case Diverged:
		return "diverged"
	}
	return fmt.Sprintf("order(%d)", int(o))
}

// Compare orders two ends by seq and, at equal seq, proves or refutes equality
// by the chain. Before and After are claims about length only: that one is a
// prefix of the other must be shown by the chain at the shorter one's seq.
func (p LogPos) Compare(q LogPos) Order {
	switch {
	case p.Seq < q.Seq:
		return Before
	case p.Seq > q.Seq:
		return After
	case p.Chain != q.Chain:
		return Diverged
	}
	return Same
}
