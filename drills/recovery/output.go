package recovery

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
)

// ID names an output for ever: whoever executes the input again gives the output the
// same one. Within a stream they are ordered by input, then by ordinal. Text form:
// stream/input/ordinal, the ordinal in decimal.
type ID struct {
	Stream  tidegate.StreamName
	Input   tidegate.Position // of the input's record; or its number, in all outputs of the stream
	Ordinal uint32            // among the outputs of one input, from 0
}

func (id ID) String() string { return fmt.Sprintf("%s/%s/%d", id.Stream, id.Input, id.Ordinal) }

// MarshalText implements [encoding.TextMarshaler].
func (id ID) MarshalText() ([]byte, error) {
	if err := tidegate.ValidName(string(id.Stream)); err != nil {
		return nil, fmt.Errorf("output id: stream: %w", err)
	}
	return []byte(id.String()), nil
}

// UnmarshalText accepts exactly what MarshalText writes.
func (id *ID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseID(string(b))
	return err
}

// ParseID parses the text form of an ID.
func ParseID(s string) (ID, error) {
	fail := func(err error) (ID, error) { return ID{}, fmt.Errorf("parse output id %q: %w", s, err) }
	parts := strings.Split(s, "/")
	if len(parts) != 3 {
		return fail(errors.New("want stream/input/ordinal"))
	}
	if err := tidegate.ValidName(parts[0]); err != nil {
		return fail(err)
	}
	input, err := tidegate.ParsePosition(parts[1])
	if err != nil {
		return fail(err)
	}
	n, err := strconv.ParseUint(parts[2], 10, 32)
	if err != nil || strconv.FormatUint(n, 10) != parts[2] {
		return fail(errors.New("ordinal: want a decimal number below 2^32"))
	}
	return ID{tidegate.StreamName(parts[0]), input, uint32(n)}, nil
}

// place is an ID within its stream.
type place struct {
	input   tidegate.Position
	ordinal uint32
}

func (id ID) place() place { return place{id.Input, id.Ordinal} }

func (p place) less(q place) bool {
	return p.input < q.input || p.input == q.input && p.ordinal < q.ordinal
}

func (p place) compare(q place) int {
	switch {
	case p.less(q):
		return -1
	case q.less(p):
		return 1
	}
	return 0
}

// Output is one output of a service, as a collector outside of it recorded it or a
// re-execution made it.
type Output struct {
	ID     ID              `json:"id"`
	Digest tidegate.Digest `json:"digest"` // of its canonical content: see [DigestOf], [DigestJSON]
	Epoch  tidegate.Epoch  `json:"epoch"`  // of the writer that sent it; 0: not known. Of no meaning in a golden
	At     time.Duration   `json:"at_ns"`  // when it came: since the failure, on the collector's clock; see Evidence.Timed
}

// DigestOf returns the digest of an output's canonical content: its bytes without
// what is meant to differ from one execution to the next.
func DigestOf(content []byte) tidegate.Digest {
	sum := sha256.Sum256(content)
	return tidegate.Digest(sum[:16])
}

// DigestJSON returns the digest of a JSON object's content: whatever the order of its
// fields and its white space, and without the fields that are declared volatile, such as
// the time of emission. A volatile field that lies deeper is named by its path, with
// dots. Numbers count as they are written: 1 and 1.0 differ.
func DigestJSON(content []byte, volatile ...string) (tidegate.Digest, error) {
	d := json.NewDecoder(bytes.NewReader(content))
	d.UseNumber()
	var object map[string]any
	if err := d.Decode(&object); err != nil {
		return tidegate.Digest{}, fmt.Errorf("digest output: want a JSON object: %w", err)
	}
	if object == nil {
		return tidegate.Digest{}, errors.New("digest output: want a JSON object, not null")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return tidegate.Digest{}, errors.New("digest output: something follows the JSON object")
	}
	for _, path := range volatile {
		remove(object, strings.Split(path, "."))
	}
	canonical, err := json.Marshal(object) // sorts the fields
	if err != nil {
		return tidegate.Digest{}, fmt.Errorf("digest output: %w", err)
	}
	return DigestOf(canonical), nil
}

func remove(object map[string]any, path []string) {
	for ; len(path) > 1; path = path[1:] {
		deeper, is := object[path[0]].(map[string]any)
		if !is {
			return // this output does not have it
		}
		object = deeper
	}
	delete(object, path[0])
}
