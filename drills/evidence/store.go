package evidence

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket"
)

// appendTries bounds how often [Store.Append] finds that somebody else was quicker.
const appendTries = 16

// Store keeps reports in a bucket, which may be an archive's, under the names of
// [archive.Drill]. All methods may be called concurrently.
type Store struct{ b bucket.Bucket }

// NewStore returns the store in b.
func NewStore(b bucket.Bucket) *Store { return &Store{b} }

// String names the store for people.
func (s *Store) String() string { return s.b.String() }

// Append gives the report the next number of its service's chain and the hash of the
// report before it, signs it and puts it. Outcomes:
//
//  1. the report, durable in the bucket. A report with the same id that is the newest
//     already is returned as it is: asking again after an error adds nothing;
//  2. class misuse: the report is not as it must be, or the bucket ignores the
//     conditions of a write, with which two drills could write over each other;
//  3. class refused: the chain is another cluster's;
//  4. class corrupt: the newest report cannot be read, or lies where another belongs, so
//     nothing can follow it;
//  5. tidegate.ErrConflict: others were quicker, again and again;
//  6. another error: it may be there.
//
// Except for the first it is the caller who still has the only copy of the report.
func (s *Store) Append(ctx context.Context, key *Key, r Report) (Sealed, error) {
	out, err := s.append(ctx, key, r)
	if err != nil {
		return Sealed{}, s.fail("store evidence in", err)
	}
	return out, nil
}

func (s *Store) append(ctx context.Context, key *Key, r Report) (Sealed, error) {
	if err := tidegate.ValidName(string(r.Service)); err != nil {
		return Sealed{}, &tidegate.Error{Op: "service", Class: tidegate.Misuse, Err: err}
	}
	if err := bucket.Require(ctx, s.b, bucket.Features{IfAbsent: true}); err != nil {
		return Sealed{}, err
	}
	if err := archive.Begin(ctx, s.b); err != nil {
		return Sealed{}, err
	}
	for range appendTries {
		head, err := s.head(ctx, r.Service)
		if err != nil {
			return Sealed{}, err
		}
		r.Number, r.Previous = 1, nil
		if head != nil {
			if head.Report.ID == r.ID {
				return *head, nil
			}
			if head.Report.Cluster != r.Cluster {
				return Sealed{}, &tidegate.Error{
					Op: "follow", Subject: head.Name, Class: tidegate.Refused, Err: fmt.Errorf("it is of cluster %q, and this report of %q", head.Report.Cluster, r.Cluster),
					Hint: "keep the evidence of each cluster in an archive of its own",
				}
			}
			r.Number, r.Previous = head.Report.Number+1, &head.Hash
		}
		out, err := Seal(ctx, key, r)
		if err != nil {
			return Sealed{}, err
		}
		out.Name = archive.Drill{Service: r.Service, Number: uint64(r.Number)}.Name()
		mine, err := s.put(ctx, out)
		if err != nil || mine {
			return out, err
		}
	}
	return Sealed{}, fmt.Errorf("%d times another report of %s was quicker: %w", appendTries, r.Service, tidegate.ErrConflict)
}

// put reports whether the report is there. A put that was made again after its answer
// was lost meets its own object.
func (s *Store) put(ctx context.Context, out Sealed) (mine bool, err error) {
	_, err = s.b.Put(ctx, out.Name, bytes.NewReader(out.Data), bucket.PutOptions{IfAbsent: true})
	if !errors.Is(err, tidegate.ErrConflict) {
		return err == nil, err
	}
	there, err := s.read(ctx, out.Name)
	return err == nil && bytes.Equal(there.Data, out.Data), err
}

// head is the newest report of a service; nil when there is none.
func (s *Store) head(ctx context.Context, service tidegate.ServiceName) (*Sealed, error) {
	names, err := s.names(ctx, archive.DrillPrefix(service))
	if err != nil || len(names) == 0 {
		return nil, err
	}
	f, err := s.read(ctx, names[len(names)-1])
	if err != nil {
		return nil, err
	}
	head, err := Open(f)
	if why := placed(f.Name, &head.Report); err == nil && why != nil { // what follows another service's report is in no chain
		err = &tidegate.Error{Op: "read report", Class: tidegate.Corrupt, Err: why}
	}
	if err != nil {
		return nil, &tidegate.Error{Op: "follow", Subject: f.Name, Class: tidegate.ClassOf(err), Err: err, Hint: "`tidegate drill verify` says what is wrong with the chain; nothing was changed"}
	}
	return &head, nil
}

// Files returns the newest envelopes of a service, last of them at most and all where
// last is 0, ascending; of all services, one after the other, where service is "".
func (s *Store) Files(ctx context.Context, service tidegate.ServiceName, last int) ([]File, error) {
	names, err := s.Names(ctx, service, last)
	if err != nil {
		return nil, err
	}
	var out []File
	for _, name := range names {
		f, err := s.Read(ctx, name)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

// Names lists what [Store.Files] returns. Objects that are no reports are left out.
func (s *Store) Names(ctx context.Context, service tidegate.ServiceName, last int) ([]string, error) {
	prefix := archive.DrillsPrefix
	if service != "" {
		prefix = archive.DrillPrefix(service)
	}
	names, err := s.names(ctx, prefix)
	if err != nil {
		return nil, s.fail("list evidence in", err)
	}
	if last <= 0 {
		return names, nil
	}
	var out []string
	for i, name := range names {
		// The one that comes so many behind it is another service's, or there is none.
		if i+last >= len(names) || path.Dir(names[i+last]) != path.Dir(name) {
			out = append(out, name)
		}
	}
	return out, nil
}

// Read returns an envelope; tidegate.ErrNotFound when there is none of that name.
func (s *Store) Read(ctx context.Context, name string) (File, error) {
	f, err := s.read(ctx, name)
	if err != nil {
		return f, s.fail("read evidence in", err)
	}
	return f, nil
}

// names lists the reports under a prefix.
func (s *Store) names(ctx context.Context, prefix string) (names []string, err error) {
	for o, err := range s.b.List(ctx, prefix, "") {
		if err != nil {
			return nil, err
		}
		if _, err := archive.ParseDrill(o.Name); err == nil {
			names = append(names, o.Name)
		}
	}
	return names, nil
}

func (s *Store) read(ctx context.Context, name string) (File, error) {
	data, _, err := bucket.ReadAll(ctx, s.b, name, EnvelopeBytesMax)
	return File{name, data}, err
}

func (s *Store) fail(op string, err error) error {
	return &tidegate.Error{Op: op, Subject: s.b.String(), Class: tidegate.ClassOf(err), Hint: tidegate.HintOf(err), Err: err}
}
