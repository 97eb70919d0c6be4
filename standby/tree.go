package standby

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

// treeBytes adds up the sizes of the files under dir; 0 when it is missing.
func treeBytes(fsys vfs.FS, dir string) (int64, error) {
	names, err := fsys.List(dir)
	if errors.Is(err, tidegate.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("measure %s: %w", dir, err)
	}
	var sum int64
	for _, name := range names {
		path := filepath.Join(dir, name)
		info, err := fsys.Stat(path)
		if err != nil {
			return 0, fmt.Errorf("measure %s: %w", path, err)
		}
		sum += info.Size
		if info.Dir {
			below, err := treeBytes(fsys, path)
			if err != nil {
				return 0, err
			}
			sum += below
		}
	}
	return sum, nil
}
