package fence

import (
	"errors"
	"fmt"

	"github.com/tidegate/tidegate"
)

// ErrNotAdopted: the node has not adopted the epoch (yet), or is busy adopting.
var ErrNotAdopted = errors.New("epoch not adopted by this node")

// The refusals of the hot path are made once: refusing allocates nothing either.
var (
	errFencedAppend     error = &tidegate.Error{Op: "check append", Class: tidegate.Fenced, Err: tidegate.ErrFenced}
	errNotAdoptedAppend error = &tidegate.Error{Op: "check append", Class: tidegate.Transient, Err: ErrNotAdopted}
	errForeignBatch     error = &tidegate.Error{
		Op: "check append", Class: tidegate.Misuse,
		Err: fmt.Errorf("batch sealed under another epoch than the session's: %w", tidegate.ErrDiverged),
	}
)
