package drop

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
)

// checkName is the object of an agent's check. It is no node's: those have directories.
func checkName(agent tidegate.NodeName) string { return Prefix + string(agent) + ".check" }

// Check tries, with an object of its own, everything that an agent needs of the bucket:
// that what is missing is said to be missing, that conditions of writes are kept, that
// what was put is read back, and that it can be removed. It leaves nothing behind unless
// it fails. One agent of a name checks at a time. The error is classified.
func (d *Drop) Check(ctx context.Context, agent tidegate.NodeName) (err error) {
	name := checkName(agent)
	defer func() {
		if err != nil {
			d.failures.Add(1)
			err = &tidegate.Error{Op: "try", Subject: name, Class: tidegate.ClassOf(err), Err: err, Hint: hintOr(err)}
		}
	}()
	if err := d.b.Remove(ctx, name); err != nil { // of a check that was cut off
		return err
	}
	if _, err := d.get(ctx, name); !errors.Is(err, tidegate.ErrNotFound) {
		return fmt.Errorf("an object that is not there was answered with: %w", orNothing(err))
	}
	text := []byte("an agent tries whether it could cross by this bucket\n")
	put := func() error {
		_, err := d.b.Put(ctx, name, bytes.NewReader(text), bucket.PutOptions{IfAbsent: true})
		return err
	}
	if err := put(); err != nil {
		return err
	}
	if err := put(); !errors.Is(err, tidegate.ErrConflict) {
		return fmt.Errorf("an object that is there was put once more, and answered with: %w", orNothing(err))
	}
	got, err := d.get(ctx, name)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, text) {
		return &tidegate.CorruptError{Path: name, Offset: -1, What: "other bytes came back than were put"}
	}
	return d.b.Remove(ctx, name)
}

// orNothing is an error where an answer was to be one.
func orNothing(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}

// hintOr is the bucket's own hint, or where to look.
func hintOr(err error) string {
	if hint := tidegate.HintOf(err); hint != "" {
		return hint
	}
	return "docs/operating/crossing.md has the rights that an agent needs"
}
