package recovery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tidegate/tidegate"
)

// ParseOutputs reads outputs as a collector or a re-execution writes them down: JSON
// objects, one a line, in the order in which they came. Of each, "id" is its [ID], "epoch"
// that of the writer, a decimal number in quotes, where it is known; its content is all but
// the epoch and the volatile fields, as [DigestJSON] takes them. Empty lines are passed over.
// The error names the line.
func ParseOutputs(text []byte, volatile ...string) ([]Output, error) {
	out := []Output{}
	volatile = append([]string{"epoch"}, volatile...)
	n := 0
	for line := range bytes.Lines(text) {
		n++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		o, err := parseOutput(line, volatile)
		if err != nil {
			return nil, fmt.Errorf("outputs: line %d: %w", n, err)
		}
		out = append(out, o)
	}
	return out, nil
}

func parseOutput(line []byte, volatile []string) (o Output, err error) {
	var named struct {
		ID    *ID            `json:"id"`
		Epoch tidegate.Epoch `json:"epoch"`
	}
	if err := json.Unmarshal(line, &named); err != nil {
		return o, err
	}
	if named.ID == nil {
		return o, errors.New("it has no id: want stream/input/ordinal, which a second execution gives it again")
	}
	o.ID, o.Epoch = *named.ID, named.Epoch
	o.Digest, err = DigestJSON(line, volatile...)
	return o, err
}

// Between returns the outputs of o that lie from the first of due on, of their stream,
// and before the cut of it; a stream without a cut ends nowhere. What due does not reach
// back to, as when it begins at a base, cannot be compared with it.
func Between(o, due []Output, cuts map[tidegate.StreamName]tidegate.Position) []Output {
	first := map[tidegate.StreamName]place{}
	for _, d := range due {
		if p, is := first[d.ID.Stream]; !is || d.ID.place().less(p) {
			first[d.ID.Stream] = d.ID.place()
		}
	}
	kept := make([]Output, 0, len(o))
	for _, one := range o {
		from, begins := first[one.ID.Stream]
		cut, ends := cuts[one.ID.Stream]
		if begins && one.ID.place().less(from) || ends && one.ID.Input >= cut {
			continue
		}
		kept = append(kept, one)
	}
	return kept
}
