package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"time"

	"github.com/tidegate/tidegate"
)

// Sizes of the format, in bytes and pages.
const (
	PageBytes   = 8 << 10
	ExtentPages = 128
	ExtentBytes = PageBytes * ExtentPages
)

// Name is the SHA-256 of what it names: of a page's bytes, of an extent's page
// names, or of a manifest. Text form: 64 lower-case hex digits.
type Name [sha256.Size]byte

func (n Name) String() string { return hex.EncodeToString(n[:]) }

// Kind is what a directory entry of a base is; the numbers are in the format.
type Kind uint8

// The kinds.
const (
	KindFile Kind = iota + 1
	KindDir
	KindLink   // symbolic
	KindStream // a file that is cut by its content, see cutter
)

// File is one entry of a base.
type File struct {
	Path    string // relative, slashes, clean, never leaving the base: "base/5/1259"
	Kind    Kind
	Mode    uint32 // permission bits
	Size    int64  // bytes; of a file or a stream only
	ModTime int64  // unix ns; 0 is not known
	Link    string // target of a link
}

// Base is what a source says of a base that it has taken.
type Base struct {
	Start   tidegate.Position // where the log that follows must begin
	End     tidegate.Position // up to where the log must be applied before the files are consistent
	Lineage tidegate.Lineage  // of the source at Start
	// Attrs is what the store's target needs to know, and [AttrEpoch]. At most
	// [AttrsMax], each at most [AttrBytesMax].
	Attrs map[string]string
}

// AttrEpoch is the attribute by which a base that is complete where it begins says of
// which log it was taken: the epoch, in decimal, under which the batch was sealed that
// has the last byte before Start. One epoch has one writer, so a log whose batch there is
// of that epoch is the same up to it.
const AttrEpoch = "epoch"

// Limits of what a manifest may say.
const (
	AttrsMax     = 256
	AttrBytesMax = 64 << 10
)

// Writer takes a base's files, one after the other, from one goroutine. What
// was written is not a base before whoever made the writer commits it.
type Writer interface {
	// Create begins a file; the one before must have been closed. Exactly
	// f.Size bytes must be written before Close; those errors are the writer's
	// too and end the base. Write returns when the bytes may be reused.
	Create(ctx context.Context, f File) (io.WriteCloser, error)
	// Add puts a directory or a link into the base.
	Add(f File) error
}

// Left estimates how long the rest takes when so much took elapsed; known is false
// while there is nothing to go by.
func (p Progress) Left(elapsed time.Duration) (left time.Duration, known bool) {
	if p.Total <= 0 || p.Bytes <= 0 {
		return 0, false
	}
	return time.Duration(float64(elapsed) * float64(max(0, p.Total-p.Bytes)) / float64(p.Bytes)), true
}

// Progress is how far a base has come. Times are the caller's to take.
type Progress struct {
	Files  int   // finished
	Bytes  int64 // of files, read so far
	Needed int64 // bytes of those whose pages were not there
	Sent   int64 // bytes that crossed for them, compressed
	Total  int64 // bytes of all files, as estimated by the source; 0 is not known
}
