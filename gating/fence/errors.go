package fence

import "errors"

// ErrNotAdopted: the node has not adopted the epoch (yet), or is busy adopting.
var ErrNotAdopted = errors.New("epoch not adopted by this node")
