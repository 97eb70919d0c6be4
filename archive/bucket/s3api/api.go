package s3api

import (
	"context"
	"io"
	"iter"
	"time"
)

// API is what a client library does, one request each. Keys are whole: prefix and
// name. All methods may be called concurrently, and return the library's own errors.
type API interface {
	Put(ctx context.Context, key string, body *io.SectionReader, c Conditions) (tag string, err error)
	Get(ctx context.Context, key string, off, n int64) (body io.ReadCloser, tag string, err error) // n < 0: to the end
	Head(ctx context.Context, key string) (Head, error)
	Delete(ctx context.Context, key, version string) error
	// List asks for page keys at a time; whoever has got so many goes on by a new List.
	List(ctx context.Context, prefix, after string, page int) iter.Seq2[Entry, error]

	CreateUpload(ctx context.Context, key string, c Conditions) (upload string, err error)
	PutPart(ctx context.Context, key, upload string, number int, body *io.SectionReader) (Part, error)
	CompleteUpload(ctx context.Context, key, upload string, parts []Part, c Conditions) (tag string, err error)
	AbortUpload(ctx context.Context, key, upload string) error

	// Fault reads the server's answer out of an error; ok is false when there was none.
	Fault(err error) (f Fault, ok bool)
}

// Conditions of a Put; [API.CreateUpload] takes the lock, CompleteUpload the others.
type Conditions struct {
	IfAbsent    bool
	IfMatch     string // without quotes; empty: none
	RetainUntil time.Time
}

// Entry is an object in a list.
type Entry struct {
	Key, Tag string
	Size     int64
	Modified time.Time
}

// Head is what a server says of an object.
type Head struct {
	Entry
	Version     string // empty where the bucket has no versions
	RetainUntil time.Time
}

// Part is one that the server has.
type Part struct {
	Number   int
	Tag      string
	Checksum string // CRC-32C in base64, where the library sends one
}
