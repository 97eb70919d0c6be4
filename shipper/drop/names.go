package drop

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tidegate/tidegate"
)

// Prefix begins the names of all that is on its way through a bucket.
const Prefix = "drop/"

// way is a direction.
type way string

const (
	wayUp   way = "up"
	wayDown way = "down"
)

// numberDigits are hex: names sort as their numbers do.
const numberDigits = 16

// nodePrefix begins the names of all connections with a node.
func nodePrefix(node tidegate.NodeName) string { return Prefix + string(node) + "/" }

// connectionPrefix begins the names of one. They lie side by side: where a bucket is a
// directory, one of each connection's own would stay behind.
func connectionPrefix(node tidegate.NodeName, id tidegate.ID) string {
	return nodePrefix(node) + id.String() + "-"
}

// wayPrefix begins the names of one direction of it.
func wayPrefix(node tidegate.NodeName, id tidegate.ID, w way) string {
	return connectionPrefix(node, id) + string(w) + "-"
}

// pieceName is the object of a piece.
func pieceName(node tidegate.NodeName, id tidegate.ID, w way, number uint64) string {
	return fmt.Sprintf("%s%0*x", wayPrefix(node, id, w), numberDigits, number)
}

// parsePiece takes the name of a node's piece apart; it accepts exactly the names that
// pieceName makes.
func parsePiece(node tidegate.NodeName, name string) (id tidegate.ID, w way, number uint64, err error) {
	bad := func(why string) (tidegate.ID, way, uint64, error) {
		return tidegate.ID{}, "", 0, fmt.Errorf("object %q: not the name of a piece for node %s: %s", name, node, why)
	}
	rest, ok := strings.CutPrefix(name, nodePrefix(node))
	parts := strings.Split(rest, "-")
	if !ok || len(parts) != 3 {
		return bad("want " + nodePrefix(node) + "<id>-up|down-<number>")
	}
	if id, err = tidegate.ParseID(parts[0]); err != nil {
		return bad(err.Error())
	}
	if number, err = strconv.ParseUint(parts[2], 16, 64); err != nil {
		return bad(err.Error())
	}
	w = way(parts[1])
	if w != wayUp && w != wayDown || pieceName(node, id, w, number) != name {
		return bad("want up or down, and 16 hex digits")
	}
	return id, w, number, nil
}
