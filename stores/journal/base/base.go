package base

import (
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/snapshot"
)

// file is the one entry of a base.
const file = "state"

// The attributes of a base.
const (
	attrRecords = "records" // of the journal before the base
	attrDigest  = "digest"  // of the state; absent if the service gives none
)

// State is a service's state as of a position of its journal.
type State struct {
	Position tidegate.Position // everything before it is in the state
	Records  uint64            // of the journal before it
	Digest   tidegate.Digest   // of the state; zero if the service gives none
	Lineage  tidegate.Lineage  // of the journal before it
	Bytes    int64             // of the state
}

// File is the entry that the state is written as.
func (s State) File() snapshot.File {
	return snapshot.File{Path: file, Kind: snapshot.KindStream, Mode: 0o600, Size: s.Bytes}
}

// Base is what a base of the state says of itself.
func (s State) Base() snapshot.Base {
	b := snapshot.Base{Start: s.Position, End: s.Position, Lineage: s.Lineage, Attrs: map[string]string{attrRecords: strconv.FormatUint(s.Records, 10)}}
	if s.Digest != (tidegate.Digest{}) {
		b.Attrs[attrDigest] = hex.EncodeToString(s.Digest[:])
	}
	return b
}

// Parse reads what a base says of its state, and finds which of its files that is. Its
// errors are of class corrupt.
func Parse(b snapshot.Base, files []snapshot.File) (s State, at int, err error) {
	s = State{Position: b.Start, Lineage: b.Lineage}
	fail := func(format string, args ...any) (State, int, error) {
		what := fmt.Sprintf("base at %s is none of a journal: ", b.Start) + fmt.Sprintf(format, args...)
		return State{}, -1, &tidegate.CorruptError{Path: "manifest", Offset: -1, What: what}
	}
	if b.Start != b.End {
		return fail("it is complete at %s only", b.End)
	}
	if s.Records, err = strconv.ParseUint(b.Attrs[attrRecords], 10, 64); err != nil {
		return fail("%v", err)
	}
	if text, given := b.Attrs[attrDigest]; given {
		raw, err := hex.DecodeString(text)
		if err != nil || len(raw) != len(s.Digest) {
			return fail("digest %.40q", text)
		}
		s.Digest = tidegate.Digest(raw)
	}
	for i, f := range files {
		if IsState(f) {
			s.Bytes = f.Size
			return s, i, nil
		}
	}
	return fail("it has no file %s", file)
}

// IsState reports whether an entry of a base is the state.
func IsState(f snapshot.File) bool { return f.Path == file && f.Kind == snapshot.KindStream }
