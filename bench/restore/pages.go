package main

import (
	"errors"
	"hash/maphash"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// pages are a restored base's, by file: what two bases differ in is counted by them.
type pages map[string][]uint64

// pageSeed is one for all, so that equal pages have equal sums.
var pageSeed = maphash.MakeSeed()

// pagesOf sums up the pages below a data directory. Its log is no part of a base.
func pagesOf(data string) (pages, error) {
	p := pages{}
	err := filepath.WalkDir(data, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(data, path)
		if err != nil || strings.HasPrefix(name, "pg_wal/") {
			return err
		}
		return eachPart(path, pageBytes, func(page []byte) error {
			p[name] = append(p[name], maphash.Bytes(pageSeed, page))
			return nil
		})
	})
	return p, err
}

// changed counts the pages of p that old has not at their place.
func (p pages) changed(old pages) (n int64) {
	for name, sums := range p {
		was := old[name]
		for i, sum := range sums {
			if i >= len(was) || was[i] != sum {
				n++
			}
		}
	}
	return n
}

// eachPart hands a file over in parts of n bytes; the last one may be shorter. A part is
// only good until the next.
func eachPart(path string, n int, do func(part []byte) error) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := make([]byte, n)
	for {
		got, err := io.ReadFull(f, buf)
		if got > 0 {
			if err := do(buf[:got]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
}
