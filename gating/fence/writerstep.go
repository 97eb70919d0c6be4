package fence

import "github.com/tidegate/tidegate"

// WriterEffect is something the shell of a writer must do or tell.
type WriterEffect interface{ writerEffect() }

type (
	// DialRelay: end any session with another relay and attach to this node.
	// Answer with RelayUp or RelayDown.
	DialRelay struct{ Node tidegate.NodeName }
	// ShipFrom: send the relay every sealed batch from Seq on.
	ShipFrom struct {
		Node tidegate.NodeName
		Seq  tidegate.Seq
	}
	// SteppedDown: another epoch holds the stream. Stop sealing, releasing and
	// shipping; nothing of this writer is ever used again.
	SteppedDown struct{ By Promise }
	// Distrusted: the member's log went back or differs under the same
	// incarnation. It counts no more; an operator must look.
	Distrusted struct {
		Member Member
		Why    string
	}
	// CaughtUp: a member whose incarnation the record does not name has
	// everything that was sealed when it was first heard of. Ask the gate for
	// ExitLimbo.
	CaughtUp struct{ Member Member }
)

func (DialRelay) writerEffect()   {}
func (ShipFrom) writerEffect()    {}
func (SteppedDown) writerEffect() {}
func (Distrusted) writerEffect()  {}
func (CaughtUp) writerEffect()    {}
