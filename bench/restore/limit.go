package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/vfs"
)

// limit is files as chunks: what any restore of them has to read, open and write.
type limit struct {
	dir   string
	dirs  []string // relative, parents first
	files []chunked
	bytes int64
}

// chunked is one file.
type chunked struct {
	path   string // relative
	chunks []chunk
}

// chunk is a part of a file, compressed, in a pack.
type chunk struct {
	pack   int
	offset int64
	stored int
	bytes  int
}

// Sizes are those of bases, so that the codec and the disk are given the same.
const (
	chunkBytes = 1 << 20
	packBytes  = 256 << 20
)

// newLimit cuts the files below from, and keeps their chunks in dir.
func newLimit(from, dir string) (l *limit, err error) {
	l = &limit{dir: dir}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, err
	}
	defer enc.Close() //nolint:errcheck // it writes to nobody
	var out *os.File
	var at int64
	packs := 0
	defer func() {
		if out != nil {
			err = errors.Join(err, out.Close())
		}
	}()
	var z []byte
	put := func(raw []byte) (c chunk, err error) {
		if out == nil || at >= packBytes {
			if out != nil {
				if err := out.Close(); err != nil {
					return c, err
				}
			}
			if out, err = os.Create(l.pack(packs)); err != nil {
				return c, err
			}
			packs, at = packs+1, 0
		}
		z = enc.EncodeAll(raw, z[:0])
		c = chunk{packs - 1, at, len(z), len(raw)}
		at += int64(len(z))
		_, err = out.Write(z)
		return c, err
	}
	err = filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		switch {
		case err != nil:
			return err
		case d.IsDir():
			l.dirs = append(l.dirs, name)
			return nil
		case !d.Type().IsRegular():
			return nil
		}
		f := chunked{path: name}
		size := int64(0)
		err = eachPart(path, chunkBytes, func(raw []byte) error {
			size += int64(len(raw))
			c, err := put(raw)
			f.chunks = append(f.chunks, c)
			return err
		})
		l.files, l.bytes = append(l.files, f), l.bytes+size
		return err
	})
	return l, err
}

func (l *limit) pack(n int) string { return filepath.Join(l.dir, fmt.Sprintf("%04d", n)) }

// restore writes the files below to, which does not exist, on as many goroutines as
// there are cores, and syncs each of them and every directory.
func (l *limit) restore(ctx context.Context, to string) (t trial, err error) {
	began, used := time.Now(), processorTime()
	for _, dir := range l.dirs {
		if err := os.MkdirAll(filepath.Join(to, dir), 0o700); err != nil {
			return t, err
		}
	}
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range runtime.NumCPU() {
		g.Go(func() error {
			w, err := l.newWorker()
			if err != nil {
				return err
			}
			defer w.close()
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(l.files) {
					return nil
				}
				if err := w.file(l.files[i], filepath.Join(to, l.files[i].path)); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return t, err
	}
	for _, dir := range l.dirs {
		if err := vfs.OS().SyncDir(filepath.Join(to, dir)); err != nil {
			return t, err
		}
	}
	return trial{took: time.Since(began), cpu: processorTime() - used, bytes: l.bytes, home: to}, nil
}

// worker is one of them, with its own buffers.
type worker struct {
	l       *limit
	dec     *zstd.Decoder
	packs   map[int]*os.File
	z, open []byte
}

func (l *limit) newWorker() (*worker, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	return &worker{l: l, dec: dec, packs: map[int]*os.File{}}, err
}

func (w *worker) close() {
	w.dec.Close()
	for _, f := range w.packs {
		_ = f.Close() // only read
	}
}

func (w *worker) file(f chunked, path string) (err error) {
	out, err := vfs.OS().Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	at := int64(0)
	for _, c := range f.chunks {
		if err := w.read(c); err != nil {
			return err
		}
		if _, err := vfs.WriteAround(out, w.open, at); err != nil {
			return err
		}
		at += int64(len(w.open))
	}
	return out.Sync()
}

// read opens a chunk into w.open.
func (w *worker) read(c chunk) (err error) {
	pack := w.packs[c.pack]
	if pack == nil {
		if pack, err = os.Open(w.l.pack(c.pack)); err != nil {
			return err
		}
		w.packs[c.pack] = pack
	}
	if cap(w.z) < c.stored {
		w.z = make([]byte, c.stored)
	}
	if _, err := pack.ReadAt(w.z[:c.stored], c.offset); err != nil {
		return err
	}
	w.open, err = w.dec.DecodeAll(w.z[:c.stored], w.open[:0])
	return err
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0 // EFAULT and EINVAL alone, for this call
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
