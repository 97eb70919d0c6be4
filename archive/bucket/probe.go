package bucket

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tidegate/tidegate"
)

// Features are the conditions that a bucket keeps. There are servers that take a
// conditional request and ignore the condition.
type Features struct {
	IfAbsent bool
	IfMatch  bool
}

// ProbeName is the object with which conditions are tried. It stays: whoever may
// only write must be able to ask.
const ProbeName = "tidegate.probe"

// Probe asks a bucket which conditions it keeps, by requests that it must refuse. It
// leaves a small object behind, whose contents mean nothing.
func Probe(ctx context.Context, b Bucket) (Features, error) {
	var f Features
	body := func() Body { return strings.NewReader("Tidegate has asked this bucket which conditions it keeps.\n") }
	// Whatever the first one does, there is an object when the second one comes.
	if _, err := b.Put(ctx, ProbeName, body(), PutOptions{IfAbsent: true}); err != nil && !errors.Is(err, tidegate.ErrConflict) {
		return f, err
	}
	_, err := b.Put(ctx, ProbeName, body(), PutOptions{IfAbsent: true})
	switch {
	case errors.Is(err, tidegate.ErrConflict):
		f.IfAbsent = true
	case err != nil && !errors.Is(err, tidegate.ErrUnsupported):
		return f, err
	}
	_, err = b.Put(ctx, ProbeName, body(), PutOptions{IfMatch: "0123456789abcdef0123456789abcdef"})
	switch {
	case errors.Is(err, tidegate.ErrConflict):
		f.IfMatch = true
	case err != nil && !errors.Is(err, tidegate.ErrUnsupported):
		return f, err
	}
	return f, nil
}

// Require asks a bucket and refuses one that lacks what is wanted.
func Require(ctx context.Context, b Bucket, want Features) error {
	has, err := Probe(ctx, b)
	if err != nil {
		return err
	}
	if want.IfAbsent && !has.IfAbsent || want.IfMatch && !has.IfMatch {
		return &tidegate.Error{
			Op: "probe bucket", Subject: b.String(), Class: tidegate.Misuse,
			Err:  fmt.Errorf("it ignores the conditions of a write (If-None-Match kept: %v, If-Match kept: %v): %w", has.IfAbsent, has.IfMatch, tidegate.ErrUnsupported),
			Hint: "two writers could write over each other there: archive to a server that keeps conditions",
		}
	}
	return nil
}
