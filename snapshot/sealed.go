package snapshot

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tidegate/tidegate/internal/vfs"
)

// Sealed returns the numbers of the packs that have an index, ascending, as they
// are on the disk now. A pack's bytes do not change any more; its index may come to
// name less, and both may be gone at the next look, when a sweep has moved what stays.
func (s *Store) Sealed() ([]uint64, error) {
	names, err := s.fsys.List(filepath.Join(s.dir, packsDir))
	if err != nil {
		return nil, fmt.Errorf("list packs: %w", err)
	}
	there := map[string]bool{}
	for _, file := range names {
		there[file] = true
	}
	var numbers []uint64
	for _, file := range names { // sorted
		stem, ok := strings.CutSuffix(file, idxSuffix)
		number, err := strconv.ParseUint(stem, 16, 64)
		if ok && err == nil && there[stem+packSuffix] { // or else a removal was cut short
			numbers = append(numbers, number)
		}
	}
	return numbers, nil
}

// OpenPack opens a sealed pack for reading; the caller closes it.
// tidegate.ErrNotFound when it is gone.
func (s *Store) OpenPack(number uint64) (vfs.File, error) {
	return s.fsys.Open(s.packPath(number, packSuffix))
}

// Index returns a sealed pack's index as it is now. tidegate.ErrNotFound when it is
// gone.
func (s *Store) Index(number uint64) ([]byte, error) {
	return readAll(s.fsys, s.packPath(number, idxSuffix))
}
