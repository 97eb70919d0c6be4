package kms

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/encrypt"
	"github.com/tidegate/tidegate/archive/bucket/place"
	"github.com/tidegate/tidegate/internal/retry"
)

// LookEvery is how long whoever puts objects goes on with the key that was the newest,
// after another process has added one.
const LookEvery = 10 * time.Minute

// Ring has the archive keys of one archive; it implements [encrypt.Keeper].
type Ring struct {
	kms    *service
	bucket bucket.Bucket
	now    func() time.Time

	// turn is held by who looks what there is, makes and opens keys: one at a time.
	turn chan struct{}
	// looked is of who has the turn.
	looked time.Time

	mu   sync.Mutex
	docs []Document // by id
	keys map[string][encrypt.KeyBytes]byte
}

// Open returns the ring of the archive whose key documents lie in b, which gives objects
// as they are. It speaks with nobody: what is wrong shows when the first key is wanted.
func Open(_ context.Context, cfg place.KMS, b bucket.Bucket) (*Ring, error) {
	return open(cfg, b, retry.Policy{}, bucket.RetryForDefault, time.Now), nil
}

func open(cfg place.KMS, b bucket.Bucket, policy retry.Policy, giveUp time.Duration, now func() time.Time) *Ring {
	return &Ring{
		kms:    newService(cfg, policy, giveUp),
		bucket: b, now: now, turn: make(chan struct{}, 1), keys: map[string][encrypt.KeyBytes]byte{},
	}
}

// Newest implements [encrypt.Keeper]. An archive that has no key, and no object either,
// gets its first one.
func (r *Ring) Newest(ctx context.Context) (id string, key [encrypt.KeyBytes]byte, err error) {
	if err := r.take(ctx); err != nil {
		return "", key, err
	}
	defer r.give()
	if len(r.docs) == 0 || r.now().Sub(r.looked) >= LookEvery {
		if err := r.look(ctx); err != nil {
			return "", key, err
		}
	}
	if len(r.docs) == 0 {
		if err := r.begin(ctx); err != nil {
			return "", key, err
		}
	}
	newest := r.docs[len(r.docs)-1]
	if err := r.ours(newest); err != nil {
		return "", key, err
	}
	key, err = r.opened(ctx, newest)
	return newest.ID, key, err
}

// ours refuses to encrypt under a key of another account than the archive's first one
// and the configured one are of: whoever may write to the bucket could put a document
// there that names a key of their own.
func (r *Ring) ours(d Document) error {
	account := place.KeyAccount(d.KMSKey)
	if account == place.KeyAccount(r.docs[0].KMSKey) || account == place.KeyAccount(r.kms.cfg.Key) {
		return nil
	}
	return &tidegate.Error{
		Op: "encrypt under", Subject: documentName(d.ID), Class: tidegate.Refused,
		Err:  fmt.Errorf("it names a KMS key of account %s, the archive was begun with one of account %s", account, place.KeyAccount(r.docs[0].KMSKey)),
		Hint: "who put it there? If the archive is to go on in that account, name the key by its ARN in archive.encryption.kms.key",
	}
}

// Key implements [encrypt.Keeper].
func (r *Ring) Key(ctx context.Context, id string) (key [encrypt.KeyBytes]byte, err error) {
	r.mu.Lock()
	key, known := r.keys[id]
	r.mu.Unlock()
	if known {
		return key, nil
	}
	if _, ours := numberOf(id); !ours {
		return key, &tidegate.Error{
			Op: "find key", Subject: id, Class: tidegate.Misuse, Err: errors.New("it is none of a key service"),
			Hint: "the archive was begun with a key file: is archive.encryption.kms meant here?",
		}
	}
	if err := r.take(ctx); err != nil {
		return key, err
	}
	defer r.give()
	d, there := r.document(id)
	if !there {
		if err := r.look(ctx); err != nil {
			return key, err
		}
		if d, there = r.document(id); !there {
			return key, gone(id)
		}
	}
	return r.opened(ctx, d)
}

// gone is an archive key whose document is not there.
func gone(id string) error {
	return &tidegate.Error{
		Op: "find key", Subject: id, Class: tidegate.Corrupt, Err: fmt.Errorf("%s is not in the bucket, and objects are encrypted with it", documentName(id)),
		Hint: "put keys/ back from a copy: docs/operating/archive-buckets.md",
	}
}

func (r *Ring) take(ctx context.Context) error {
	select {
	case r.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Ring) give() { <-r.turn }

// document is the one of that archive key, as far as is known. The caller has the turn.
func (r *Ring) document(id string) (d Document, there bool) {
	i := slices.IndexFunc(r.docs, func(d Document) bool { return d.ID == id })
	if i < 0 {
		return d, false
	}
	return r.docs[i], true
}

// look reads which keys there are. One that was there stays known; that it has gone is
// an error all the same.
func (r *Ring) look(ctx context.Context) error {
	var docs []Document
	for o, err := range r.bucket.List(ctx, Prefix, "") {
		if err != nil {
			return err
		}
		id, ours := idOf(o.Name)
		if !ours {
			continue // as everywhere in an archive, what is not its own is left alone
		}
		d, known := r.document(id)
		if !known {
			if d, err = r.read(ctx, id); err != nil {
				return err
			}
		}
		if len(docs) > 0 && d.Archive != docs[0].Archive {
			return classified("read key", documentName(id), damaged(documentName(id), "is of the archive "+d.Archive+", the key before it of "+docs[0].Archive))
		}
		docs = append(docs, d)
	}
	for _, d := range r.docs {
		if !slices.ContainsFunc(docs, func(is Document) bool { return is.ID == d.ID }) {
			return gone(d.ID)
		}
	}
	r.docs, r.looked = docs, r.now()
	return nil
}

// read reads one document.
func (r *Ring) read(ctx context.Context, id string) (d Document, err error) {
	b, _, err := bucket.ReadAll(ctx, r.bucket, documentName(id), documentMax)
	if err != nil {
		return d, err
	}
	if d, err = parse(id, b); err != nil {
		return d, classified("read key", documentName(id), err)
	}
	return d, nil
}

func classified(op, name string, err error) error {
	return &tidegate.Error{
		Op: op, Subject: name, Class: tidegate.ClassOf(err), Err: err,
		Hint: "without it nothing that lies under this key can be read: put it back from a copy, docs/operating/archive-buckets.md",
	}
}

// opened is the key of a document, for which the service is asked once.
func (r *Ring) opened(ctx context.Context, d Document) (key [encrypt.KeyBytes]byte, err error) {
	r.mu.Lock()
	key, known := r.keys[d.ID]
	r.mu.Unlock()
	if known {
		return key, nil
	}
	if key, err = r.kms.open(ctx, d); err != nil {
		return key, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys[d.ID] = key
	return key, nil
}

// begin makes an archive's first key; that somebody else has done so meanwhile will do.
func (r *Ring) begin(ctx context.Context) error {
	for o, err := range r.bucket.List(ctx, "", "") {
		if err != nil {
			return err
		}
		if !beside(o.Name) {
			return &tidegate.Error{
				Op: "begin to encrypt", Subject: r.bucket.String(), Class: tidegate.Misuse, Err: fmt.Errorf("%s is there, and no key is", o.Name),
				Hint: "an archive is encrypted from its beginning or not at all: begin another one, or put keys/ back from a copy if it was",
			}
		}
	}
	if err := bucket.Require(ctx, r.bucket, bucket.Features{IfAbsent: true}); err != nil {
		return err // two nodes could write over each other's first key
	}
	var archive [archiveBytes]byte
	_, _ = rand.Read(archive[:]) // never fails, by its documentation
	if _, err := r.add(ctx, Document{Archive: hex.EncodeToString(archive[:]), ID: keyID(1)}); err != nil && !errors.Is(err, tidegate.ErrConflict) {
		return err
	}
	return r.look(ctx)
}

// beside reports whether a name is of what may lie where an archive has not begun: the
// object that [bucket.Require] leaves, and what crosses by the bucket.
func beside(name string) bool {
	return name == bucket.ProbeName || strings.HasPrefix(name, "drop/")
}

// add puts the document of another key: only when the service opens again what it has
// wrapped, and what was read back is what was put, is it one.
func (r *Ring) add(ctx context.Context, d Document) (Document, error) {
	m, err := r.kms.generate(ctx, d)
	if err != nil {
		return d, err
	}
	d.KMSKey, d.Wrapped, d.Created = m.kmsKey, m.wrapped, r.now().UTC().Truncate(time.Second)
	if d, err = parse(d.ID, d.encode()); err != nil {
		return d, fmt.Errorf("what the service gave: %w", err)
	}
	again, err := r.kms.open(ctx, d)
	if err != nil {
		return d, err
	}
	if again != m.plain {
		return d, &tidegate.Error{Op: "make key", Subject: d.ID, Class: tidegate.Permanent, Err: errors.New("the service has opened another key than it gave")}
	}
	if _, err := r.bucket.Put(ctx, documentName(d.ID), bytes.NewReader(d.encode()), bucket.PutOptions{IfAbsent: true}); err != nil {
		return d, err
	}
	back, err := r.read(ctx, d.ID)
	if err != nil {
		return d, err
	}
	if !bytes.Equal(back.encode(), d.encode()) {
		return d, &tidegate.Error{Op: "make key", Subject: documentName(d.ID), Class: tidegate.Corrupt, Err: errors.New("other bytes came back than were put")}
	}
	return d, nil
}

// Rotate adds a key, under the KMS key that is configured: objects are put with it from
// now on, by other processes after [LookEvery]. tidegate.ErrConflict when somebody else
// has added one at the same time; refused while the archive has none.
func (r *Ring) Rotate(ctx context.Context) (Document, error) {
	if err := r.take(ctx); err != nil {
		return Document{}, err
	}
	defer r.give()
	if err := r.look(ctx); err != nil {
		return Document{}, err
	}
	refuse := func(why, hint string) (Document, error) {
		return Document{}, &tidegate.Error{Op: "rotate key of", Subject: r.bucket.String(), Class: tidegate.Refused, Err: errors.New(why), Hint: hint}
	}
	if len(r.docs) == 0 {
		return refuse("it has none yet", "whoever puts the first object makes one: start a standby node that archives there")
	}
	newest := r.docs[len(r.docs)-1]
	number, _ := numberOf(newest.ID)
	if number == keysMax {
		return refuse(fmt.Sprintf("it has had %d keys", keysMax), "begin another archive")
	}
	d, err := r.add(ctx, Document{Archive: newest.Archive, ID: keyID(number + 1)})
	if err != nil {
		return d, err
	}
	return d, r.look(ctx)
}

// State is an archive key, and whether the service opens it.
type State struct {
	Document

	Err error // nil: it does
}

// List returns the archive's keys, the newest last, and has the service open each of
// them anew.
func (r *Ring) List(ctx context.Context) ([]State, error) {
	if err := r.take(ctx); err != nil {
		return nil, err
	}
	defer r.give()
	if err := r.look(ctx); err != nil {
		return nil, err
	}
	out := make([]State, 0, len(r.docs))
	for _, d := range r.docs {
		_, err := r.kms.open(ctx, d)
		out = append(out, State{d, err})
	}
	return out, nil
}
