package figure

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// fileSystems are the types that a bench is likely to meet, by their magic numbers.
var fileSystems = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
	unix.TMPFS_MAGIC: "tmpfs (no disk)", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs",
}

// Machine says in one line what the figures were measured on.
func Machine(dir string) string {
	kernel, model := "unknown", "unknown"
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		kernel = unix.ByteSliceToString(u.Release[:])
	}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	load := "unknown"
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		load, _, _ = strings.Cut(string(b), " ")
	}
	kind := "unknown"
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) == nil {
		kind = fileSystems[int64(st.Type)] //nolint:unconvert // of another type on other architectures
		if kind == "" {
			kind = fmt.Sprintf("file system %#x", st.Type)
		}
	}
	return fmt.Sprintf("%d cores (%s), Linux %s, %s at %s, %s %s/%s, load at the start %s",
		runtime.NumCPU(), model, kernel, kind, filepath.Clean(dir), runtime.Version(), runtime.GOOS, runtime.GOARCH, load)
}

// Uncache takes the files below a folder out of the page cache, and returns their
// bytes. What is not on the disk yet stays: sync before.
func Uncache(dir string) (bytes int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		n, err := uncache(path)
		bytes += n
		return err
	})
	if err == nil && bytes == 0 {
		err = errors.New("there is nothing in it")
	}
	if err != nil {
		return bytes, fmt.Errorf("take %s out of the page cache: %w", dir, err)
	}
	return bytes, nil
}

func uncache(path string) (bytes int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
