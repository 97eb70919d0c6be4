package base

import (
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/snapshot"
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
	return snapshot.File{Path: snapshot.StateFile, Kind: snapshot.KindStream, Mode: 0o600, Size: s.Bytes}
}

// Base is what a base of the state says of itself.
func (s State) Base() snapshot.Base {
	b := snapshot.Base{Start: s.Position, End: s.Position, Lineage: s.Lineage, Attrs: map[string]string{snapshot.AttrRecords: strconv.FormatUint(s.Records, 10)}}
	if s.Digest != (tidegate.Digest{}) {
		b.Attrs[snapshot.AttrDigest] = hex.EncodeToString(s.Digest[:])
	}
	return b
}

// Parse reads what a base says of its state, and finds which of its files that is. Its
// errors are of class corrupt.
func Parse(b snapshot.Base, files []snapshot.File) (s State, at int, err error) {
	m := snapshot.Manifest{Info: snapshot.Info{Base: b}, Files: files}
	st, err := m.State()
	if err == nil && (b.Start != b.End || !IsState(files[st.File])) {
		err = fmt.Errorf("base at %s is none of a journal: it is complete at %s, by a file of kind %d", b.Start, b.End, files[st.File].Kind)
	}
	if err != nil {
		return s, -1, &tidegate.CorruptError{Path: "manifest", Offset: -1, What: err.Error()}
	}
	return State{Position: b.Start, Records: st.Records, Digest: st.Digest, Lineage: b.Lineage, Bytes: st.Size}, st.File, nil
}

// IsState reports whether an entry of a base is the state.
func IsState(f snapshot.File) bool {
	return f.Path == snapshot.StateFile && f.Kind == snapshot.KindStream
}
