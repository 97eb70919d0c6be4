package kms

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket/encrypt"
	"github.com/tidegate/tidegate/archive/bucket/place"
	"github.com/tidegate/tidegate/internal/invariant"
)

// Names and limits of key documents; docs/formats/archive-object.md.
const (
	Prefix  = "keys/" // begins the names of key documents, and of nothing else of an archive
	Version = 1       // of the document

	documentSuffix = ".json"
	documentMax    = 64 << 10 // bytes
	formatText     = "tidegate-key"
	idPrefix       = "kms-"
	idDigits       = 4
	keysMax        = 9999
	archiveBytes   = 16 // of an archive's id
)

// Document is an archive key as it lies in the bucket.
type Document struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	Archive string    `json:"archive"` // drawn with the first key: 32 hex digits, the same in all
	ID      string    `json:"id"`      // kms-0001, which the headers of objects name
	KMSKey  string    `json:"kms_key"` // ARN
	Wrapped []byte    `json:"wrapped"` // as the service gave it
	Created time.Time `json:"created"` // by the clock of the machine that asked for it
}

// keyID is the id of the archive key with that number, from 1.
func keyID(number int) string { return fmt.Sprintf("%s%0*d", idPrefix, idDigits, number) }

// numberOf is the reverse.
func numberOf(id string) (int, bool) {
	n, err := strconv.Atoi(strings.TrimPrefix(id, idPrefix))
	return n, err == nil && n > 0 && n <= keysMax && keyID(n) == id
}

// documentName is the object of an archive key.
func documentName(id string) string { return Prefix + id + documentSuffix }

// idOf is the archive key whose document has that name.
func idOf(name string) (id string, is bool) {
	rest, inside := strings.CutPrefix(name, Prefix)
	id, named := strings.CutSuffix(rest, documentSuffix)
	_, valid := numberOf(id)
	return id, inside && named && valid
}

// encode returns the document's bytes.
func (d Document) encode() []byte {
	d.Format, d.Version = formatText, Version
	b, err := json.MarshalIndent(d, "", "  ")
	invariant.MustNil(err, "a document has only types that JSON has")
	return append(b, '\n')
}

// parse reads the document of that archive key. A version that it does not know is
// tidegate.ErrUnsupported; damage is a *tidegate.CorruptError.
func parse(id string, b []byte) (d Document, err error) {
	name := documentName(id)
	if err := json.Unmarshal(b, &d); err != nil {
		return d, damaged(name, err.Error())
	}
	if d.Format == formatText && d.Version != Version {
		return d, fmt.Errorf("%s: version %d: %w", name, d.Version, tidegate.ErrUnsupported)
	}
	err = errors.Join(
		rule(d.Format == formatText, "is no key document"),
		rule(d.ID == id, "is of the key "+d.ID),
		rule(validArchive(d.Archive), "names no archive"),
		rule(place.IsKeyARN(d.KMSKey), "names no KMS key"),
		rule(len(d.Wrapped) > 0, "has no key"),
	)
	if err != nil {
		return d, damaged(name, err.Error())
	}
	return d, nil
}

func rule(holds bool, broken string) error {
	if holds {
		return nil
	}
	return errors.New(broken)
}

func validArchive(id string) bool {
	return len(id) == 2*archiveBytes && strings.Trim(id, "0123456789abcdef") == ""
}

func damaged(name, what string) error {
	return &tidegate.CorruptError{Path: name, Offset: -1, What: what}
}

// context binds the wrapped key to the archive and to its own id: the service opens it
// only with the same.
func (d Document) context() map[string]string {
	return map[string]string{"tidegate-archive": d.Archive, "tidegate-key": d.ID}
}

// plainKey is what the service gave as a key.
func plainKey(b []byte) (key [encrypt.KeyBytes]byte, err error) {
	if len(b) != encrypt.KeyBytes {
		return key, fmt.Errorf("the service gave a key of %d bytes, want %d", len(b), encrypt.KeyBytes)
	}
	return [encrypt.KeyBytes]byte(b), nil
}
