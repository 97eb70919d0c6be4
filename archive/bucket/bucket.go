package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
)

// Bucket keeps objects by name; see [ValidName]. All methods may be called
// concurrently.
type Bucket interface {
	// Put stores an object whole, or not at all; it is durable when Put returns.
	// body may be read again from its start, also by several goroutines, until Put
	// returns, and must not change meanwhile. Outcomes:
	//
	//  1. the object;
	//  2. tidegate.ErrConflict, of class refused: IfAbsent or IfMatch does not hold,
	//     and nothing has changed;
	//  3. another error: the object may be there, or the one before it.
	Put(ctx context.Context, name string, body Body, o PutOptions) (Object, error)
	// Get reads the bytes [off, off+n) of an object, up to its end where n is
	// negative or reaches beyond it; from its end on there is nothing to read, which
	// is no error. The caller closes. tidegate.ErrNotFound when there is no such
	// object. A body that ends early is an error of its Read, never a plain end.
	Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error)
	// Stat describes an object; tidegate.ErrNotFound when there is none.
	Stat(ctx context.Context, name string) (Object, error)
	// List gives the objects whose names begin with prefix and sort behind after, in
	// the order of their bytes. prefix may end within a part of a name. It ends at
	// the first error. Objects put or removed meanwhile may be missing or there; all
	// others come once.
	List(ctx context.Context, prefix, after string) iter.Seq2[Object, error]
	// Remove removes an object; one that is missing is no error. One that is locked
	// stays, and the error has the class refused.
	Remove(ctx context.Context, name string) error
	// String names the bucket for people, without credentials.
	String() string
}

// Body is what an object is made of. A [*bytes.Reader] and a [*io.SectionReader]
// are bodies.
type Body interface {
	io.ReaderAt
	Size() int64
}

// PutOptions are the conditions of a Put. The zero value has none.
type PutOptions struct {
	IfAbsent bool   // only when there is no object of that name
	IfMatch  string // only when the object there has this tag; with IfAbsent it is a mistake
	// RetainUntil locks the object: nobody removes or replaces its bytes before that
	// time, as far as the server keeps it. Zero: no lock. A driver that cannot lock
	// refuses with tidegate.ErrUnsupported and stores nothing.
	RetainUntil time.Time
}

// Object describes an object.
type Object struct {
	Name string
	Size int64 // bytes; -1 of [Bucket.List] where it is not what the driver puts: reading it fails
	// Tag stands for the object's bytes: equal tags, equal bytes. It may be empty in
	// what [Bucket.List] gives, and where a driver says that it has none.
	Tag         string
	Modified    time.Time // by the clock of the place that keeps it; Put may leave it zero
	RetainUntil time.Time // zero: not locked; List does not ask and leaves it zero
}

// Tagged is what a reader that [Bucket.Get] gave may be: it knows the tag of the
// object that it reads. With that, reading can go on by another Get, see [Retry].
type Tagged interface{ Tag() string }

// Limits of names, in bytes: what every place keeps, with room for the prefix under
// which an operator puts an archive.
const (
	NameMax = 512
	PartMax = 200
)

// ValidName reports what is wrong with an object's name. It is a relative path of
// parts with one slash between them, of printable ASCII without blanks and
// backslashes; no part begins with a dot, because those are the drivers' own. That
// no object's name is another one's directory ("a" beside "a/b") is up to whoever
// chooses names: a server may keep both, a directory cannot.
func ValidName(name string) error {
	if name == "" || len(name) > NameMax {
		return fmt.Errorf("a name has 1 to %d bytes (got %d)", NameMax, len(name))
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part[0] == '.' || len(part) > PartMax {
			return fmt.Errorf("every part of a name has 1 to %d bytes and does not begin with a dot (got %q)", PartMax, name)
		}
	}
	return validBytes(name)
}

// ValidPrefix is [ValidName] for what List looks for: also empty, also the
// beginning of a name.
func ValidPrefix(prefix string) error {
	if len(prefix) > NameMax {
		return fmt.Errorf("a prefix has at most %d bytes (got %d)", NameMax, len(prefix))
	}
	if strings.HasPrefix(prefix, "/") || strings.HasPrefix(prefix, ".") || strings.Contains(prefix, "//") || strings.Contains(prefix, "/.") {
		return fmt.Errorf("a prefix is the beginning of a name (got %q)", prefix)
	}
	return validBytes(prefix)
}

func validBytes(name string) error {
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c > '~' || c == '\\' {
			return fmt.Errorf("a name is of printable ASCII without blanks and backslashes (got %q)", name)
		}
	}
	return nil
}

// Check reports a mistake of the caller: options that contradict each other.
func (o PutOptions) Check() error {
	if o.IfAbsent && o.IfMatch != "" {
		return errors.New("an object cannot be absent and match a tag")
	}
	return nil
}

// CheckPut is what every driver asks of a Put before it does anything; the error
// is classified.
func CheckPut(name string, o PutOptions) error {
	if err := errors.Join(ValidName(name), o.Check()); err != nil {
		return &tidegate.Error{Op: "put object", Subject: name, Class: tidegate.Misuse, Err: err}
	}
	return nil
}

// CheckName is the same for other operations: op on the object of that name.
func CheckName(op, name string) error {
	if err := ValidName(name); err != nil {
		return &tidegate.Error{Op: op, Subject: name, Class: tidegate.Misuse, Err: err}
	}
	return nil
}

// CheckGet is the same for a Get.
func CheckGet(name string, off int64) error {
	if err := CheckName("get object", name); err != nil {
		return err
	}
	if off < 0 {
		return &tidegate.Error{Op: "get object", Subject: name, Class: tidegate.Misuse, Err: fmt.Errorf("offset %d", off)}
	}
	return nil
}

// CheckList is the same for a List.
func CheckList(prefix string) error {
	if err := ValidPrefix(prefix); err != nil {
		return &tidegate.Error{Op: "list objects", Subject: prefix, Class: tidegate.Misuse, Err: err}
	}
	return nil
}

// Conflict is the error of a condition that does not hold. Its class is refused and
// not transient, as a bare tidegate.ErrConflict would have it: the same request
// fails again.
func Conflict(name, why string) error {
	return &tidegate.Error{
		Op: "put object", Subject: name, Class: tidegate.Refused,
		Err: fmt.Errorf("%s: %w", why, tidegate.ErrConflict),
	}
}

// ReadAll reads a small object whole: at most limit bytes, a longer one is an error.
// The object is described as it was before it was read, so its tag may be older than
// the bytes and never newer: a Put with IfMatch of it fails rather than undo what
// somebody else has written.
func ReadAll(ctx context.Context, b Bucket, name string, limit int64) (_ []byte, _ Object, err error) {
	o, err := b.Stat(ctx, name)
	if err != nil {
		return nil, Object{}, err
	}
	r, err := b.Get(ctx, name, 0, limit+1)
	if err != nil {
		return nil, Object{}, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, Object{}, err
	}
	if int64(len(data)) > limit {
		return nil, Object{}, &tidegate.Error{
			Op: "get object", Subject: name, Class: tidegate.Corrupt,
			Err: fmt.Errorf("longer than the %d bytes that it may have", limit),
		}
	}
	return data, o, nil
}
