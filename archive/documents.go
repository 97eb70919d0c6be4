package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/invariant"
)

// Version is of the layout and of the documents in it.
const Version = 1

// DocumentBytesMax bounds the JSON objects of an archive.
const DocumentBytesMax = 64 << 10

const formatText = "tidegate archive"

// formatDocument is what [FormatName] holds.
type formatDocument struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
}

// FormatDocument returns what [FormatName] holds. It is written once.
func FormatDocument() []byte {
	return document(formatDocument{formatText, Version})
}

// CheckFormat reports whether b, of [FormatName], says that the bucket is an archive
// of this version; tidegate.ErrUnsupported when it is another's.
func CheckFormat(b []byte) error {
	var d formatDocument
	if err := json.Unmarshal(b, &d); err != nil {
		return corrupt(FormatName, err)
	}
	if d.Format != formatText || d.Version != Version {
		return fmt.Errorf("%s: %q, version %d: %w", FormatName, d.Format, d.Version, tidegate.ErrUnsupported)
	}
	return nil
}

// StreamInfo is what [StreamName] holds: what whoever has the bucket alone needs to
// know of a stream. It is written when the stream is first archived, and stays.
type StreamInfo struct {
	Version int                  `json:"version"` // Version
	Stream  tidegate.StreamID    `json:"stream"`
	Service tidegate.ServiceName `json:"service"`
	Name    tidegate.StreamName  `json:"name"`
	Store   string               `json:"store"` // kind: "journal", "postgres"
	Created time.Time            `json:"created"`
}

// Encode returns the document.
func (s StreamInfo) Encode() []byte {
	s.Version = Version
	return document(s)
}

// ParseStream reads a stream's document. A version that it does not know is
// tidegate.ErrUnsupported; damage is a *tidegate.CorruptError.
func ParseStream(id tidegate.StreamID, b []byte) (s StreamInfo, err error) {
	name := StreamName(id)
	if err := json.Unmarshal(b, &s); err != nil {
		return s, corrupt(name, err)
	}
	if s.Version != Version {
		return s, fmt.Errorf("%s: version %d: %w", name, s.Version, tidegate.ErrUnsupported)
	}
	err = errors.Join(tidegate.ValidName(string(s.Service)), tidegate.ValidName(string(s.Name)))
	if s.Stream != id {
		err = errors.Join(err, fmt.Errorf("is of stream %s", s.Stream))
	}
	if s.Store == "" {
		err = errors.Join(err, errors.New("names no kind of store"))
	}
	if err != nil {
		return s, corrupt(name, err)
	}
	return s, nil
}

// Archivist is what [ArchivistName] holds: the node that uploads a stream. Nothing
// rests on it: who overlooks it does work twice.
type Archivist struct {
	Version     int                  `json:"version"` // Version
	Node        tidegate.NodeName    `json:"node"`
	Incarnation tidegate.Incarnation `json:"incarnation"`
	// Until is for people: by the node's own clock. Others wait for as long as the
	// object does not change, by theirs.
	Until time.Time `json:"until"`
	// Released: the node has stopped, and nobody need wait.
	Released bool `json:"released,omitempty"`
}

// Encode returns the document.
func (a Archivist) Encode() []byte {
	a.Version = Version
	return document(a)
}

// ParseArchivist reads a stream's archivist; errors as those of [ParseStream].
func ParseArchivist(id tidegate.StreamID, b []byte) (a Archivist, err error) {
	name := ArchivistName(id)
	if err := json.Unmarshal(b, &a); err != nil {
		return a, corrupt(name, err)
	}
	if a.Version != Version {
		return a, fmt.Errorf("%s: version %d: %w", name, a.Version, tidegate.ErrUnsupported)
	}
	if err := tidegate.ValidName(string(a.Node)); err != nil {
		return a, corrupt(name, err)
	}
	return a, nil
}

// document encodes what cannot fail to be.
func document(v any) []byte {
	b, err := json.Marshal(v)
	invariant.MustNil(err, "a document has only types that JSON has")
	return append(b, '\n')
}

func corrupt(name string, err error) error {
	return &tidegate.CorruptError{Path: name, Offset: -1, What: err.Error()}
}
