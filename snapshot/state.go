package snapshot

import (
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/tidegate/tidegate"
)

// A base of a journal is the state of the service that followed it, as one stream:
// complete where it begins. What the journal must be told beside it is in attributes.
const (
	StateFile   = "state"
	AttrRecords = "records" // of the journal before the base
	AttrDigest  = "digest"  // of the state; absent if the service gives none
)

// State is what a base of a journal says of the service's state in it.
type State struct {
	File    int             // which of the base's files it is
	Size    int64           // bytes
	Records uint64          // of the journal before the base
	Digest  tidegate.Digest // of the state at the base's Start; zero if the service gave none
}

// State finds the service's state in a base of a journal. The error of any other base
// wraps tidegate.ErrUnsupported or tidegate.ErrNotFound.
func (r *Reader) State() (State, error) { return r.m.State() }

// State is [Reader.State] of a manifest.
func (m *Manifest) State() (st State, err error) {
	fail := func(err error) (State, error) {
		return State{}, fmt.Errorf("base at %s is none of a journal: %w", m.Start, err)
	}
	if st.Records, err = strconv.ParseUint(m.Attrs[AttrRecords], 10, 64); err != nil {
		return fail(fmt.Errorf("%w: %w", tidegate.ErrUnsupported, err))
	}
	if st.Digest, err = m.StateDigest(); err != nil {
		return fail(err)
	}
	for i, f := range m.Files {
		if f.Path == StateFile {
			st.File, st.Size = i, f.Size
			return st, nil
		}
	}
	return fail(tidegate.ErrNotFound)
}

// StateDigest is the digest of the service's state at Start, in a base of a journal;
// zero if the service gave none.
func (i *Info) StateDigest() (d tidegate.Digest, err error) {
	text, given := i.Attrs[AttrDigest]
	if !given {
		return d, nil
	}
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(d) {
		return d, fmt.Errorf("digest %.40q: %w", text, tidegate.ErrUnsupported)
	}
	return tidegate.Digest(raw), nil
}
