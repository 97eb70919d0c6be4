package base

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/snapshot"
)

// file is the entry of a base that the state is, and attr* what is said beside it.
const (
	file        = "state"
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
	fail := func(err error) (State, int, error) {
		return State{}, -1, &tidegate.CorruptError{Path: "manifest", Offset: -1, What: fmt.Sprintf("base at %s is none of a journal: %v", b.Start, err)}
	}
	records, err := strconv.ParseUint(b.Attrs[attrRecords], 10, 64)
	if err != nil {
		return fail(err)
	}
	digest, err := Digest(b)
	if err != nil {
		return fail(err)
	}
	if b.Start != b.End {
		return fail(fmt.Errorf("it is complete at %s", b.End))
	}
	if at = slices.IndexFunc(files, IsState); at < 0 {
		return fail(errors.New("it has no state"))
	}
	return State{Position: b.Start, Records: records, Digest: digest, Lineage: b.Lineage, Bytes: files[at].Size}, at, nil
}

// Digest is the digest of the service's state at the base's Start; zero if the service
// gave none.
func Digest(b snapshot.Base) (d tidegate.Digest, err error) {
	text, given := b.Attrs[attrDigest]
	if !given {
		return d, nil
	}
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(d) {
		return d, fmt.Errorf("digest %.40q: %w", text, tidegate.ErrUnsupported)
	}
	return tidegate.Digest(raw), nil
}

// Content reads the state that is file at of a base. ctx bounds all of it. Close ends
// the reading and waits for that; the caller closes r after it.
func Content(ctx context.Context, r *snapshot.Reader, at int) io.ReadCloser {
	pr, pw := io.Pipe()
	c := &content{PipeReader: pr, copied: make(chan struct{})}
	go func() { // owned by content; ends when the state was read, or Close has closed the pipe
		defer close(c.copied)
		_ = pw.CloseWithError(r.Copy(ctx, at, pw)) // it never fails; the reader gets the error
	}()
	return c
}

type content struct {
	*io.PipeReader
	copied chan struct{}
}

func (c *content) Close() error {
	err := c.PipeReader.Close()
	<-c.copied
	return err
}

// IsState reports whether an entry of a base is the state.
func IsState(f snapshot.File) bool {
	return f.Path == file && f.Kind == snapshot.KindStream
}
