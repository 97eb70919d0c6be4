package s3api_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidegate/tidegate/archive/bucket/s3api"
)

// server is a server in memory: no substitute for a real one, but enough for what is
// decided on this side. `make test-s3` has the real ones.
type server struct {
	mu      sync.Mutex
	objects map[string]object
	uploads map[string]map[int][]byte
	serial  int
}

type object struct {
	data     []byte
	modified time.Time
}

func newServer() *server {
	return &server{objects: map[string]object{}, uploads: map[string]map[int][]byte{}}
}

// answer is the error of a client library.
type answer struct{ s3api.Fault }

func (a answer) Error() string { return fmt.Sprint(a.Status, " ", a.Code, " ", a.Message) }

func refuse(status int, code string) error { return answer{s3api.Fault{Status: status, Code: code}} }

func (s *server) Fault(err error) (s3api.Fault, bool) {
	var a answer
	ok := errors.As(err, &a)
	return a.Fault, ok
}

func tag(data []byte) string { return fmt.Sprintf("%x", md5.Sum(data)) }

func (s *server) store(ctx context.Context, key string, data []byte, c s3api.Conditions) (string, error) {
	old, there := s.objects[key]
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case c.IfAbsent && there:
		return "", refuse(http.StatusPreconditionFailed, "PreconditionFailed")
	case c.IfMatch != "" && !there:
		return "", refuse(http.StatusNotFound, "NoSuchKey")
	case c.IfMatch != "" && tag(old.data) != c.IfMatch:
		return "", refuse(http.StatusPreconditionFailed, "PreconditionFailed")
	}
	s.objects[key] = object{data, time.Now()}
	return tag(data), nil
}

func (s *server) Put(ctx context.Context, key string, body *io.SectionReader, c s3api.Conditions) (string, error) {
	data, err := io.ReadAll(body)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.store(ctx, key, data, c)
}

func (s *server) CreateUpload(ctx context.Context, key string, _ s3api.Conditions) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	id := fmt.Sprint(key, " ", s.serial)
	s.uploads[id] = map[int][]byte{}
	return id, nil
}

func (s *server) PutPart(_ context.Context, _, upload string, number int, body *io.SectionReader) (s3api.Part, error) {
	data, err := io.ReadAll(body)
	if err != nil {
		return s3api.Part{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uploads[upload][number] = data
	return s3api.Part{Number: number, Tag: tag(data)}, nil
}

func (s *server) CompleteUpload(ctx context.Context, key, upload string, parts []s3api.Part, c s3api.Conditions) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var data []byte
	for i, p := range parts {
		if p.Number != i+1 || p.Tag != tag(s.uploads[upload][p.Number]) {
			return "", refuse(http.StatusBadRequest, "InvalidPart")
		}
		data = append(data, s.uploads[upload][p.Number]...)
	}
	made, err := s.store(ctx, key, data, c)
	if err == nil {
		delete(s.uploads, upload)
	}
	return made, err
}

func (s *server) AbortUpload(_ context.Context, _, upload string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.uploads, upload)
	return nil
}

func (s *server) find(ctx context.Context, key string) (object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, there := s.objects[key]
	switch {
	case ctx.Err() != nil:
		return object{}, ctx.Err()
	case !there:
		return object{}, refuse(http.StatusNotFound, "NoSuchKey")
	}
	return o, nil
}

func (s *server) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, string, error) {
	o, err := s.find(ctx, key)
	if err != nil {
		return nil, "", err
	}
	size := int64(len(o.data))
	if off > 0 && off >= size || n > 0 && size == 0 {
		return nil, "", refuse(http.StatusRequestedRangeNotSatisfiable, "InvalidRange")
	}
	end := size
	if n >= 0 {
		end = min(off+n, size)
	}
	return io.NopCloser(bytes.NewReader(o.data[off:end])), tag(o.data), nil
}

func (s *server) Head(ctx context.Context, key string) (s3api.Head, error) {
	o, err := s.find(ctx, key)
	if err != nil {
		if ctx.Err() == nil {
			err = refuse(http.StatusNotFound, "") // it has no body
		}
		return s3api.Head{}, err
	}
	return s3api.Head{Entry: entry(key, o)}, nil
}

func entry(key string, o object) s3api.Entry {
	return s3api.Entry{Key: key, Tag: tag(o.data), Size: int64(len(o.data)), Modified: o.modified}
}

func (s *server) Delete(ctx context.Context, key, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, key)
	return ctx.Err()
}

// List fails where its page ends: whoever wants more asks again.
func (s *server) List(ctx context.Context, prefix, after string, page int) iter.Seq2[s3api.Entry, error] {
	return func(yield func(s3api.Entry, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(s3api.Entry{}, err)
			return
		}
		s.mu.Lock()
		objects := maps.Clone(s.objects)
		s.mu.Unlock()
		n := 0
		for _, key := range slices.Sorted(maps.Keys(objects)) {
			if !strings.HasPrefix(key, prefix) || key <= after {
				continue
			}
			if n++; n > page {
				yield(s3api.Entry{}, errors.New("a page was exceeded"))
				return
			}
			if !yield(entry(key, objects[key]), nil) {
				return
			}
		}
	}
}
