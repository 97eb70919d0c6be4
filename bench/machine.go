package main

import (
	"debug/elf"
	"errors"
	"fmt"
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

// describeMachine says in one line what the figures were measured on.
func describeMachine(dir string) string {
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

// program is the agent's file.
type program struct {
	Bytes    int64 `json:"bytes"`
	Stripped bool  `json:"stripped"`
}

func agentSize(bin string) (b program, err error) {
	name := filepath.Join(bin, "tidegate-agent")
	info, err := os.Stat(name)
	if err != nil {
		return b, err
	}
	f, err := elf.Open(name)
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return program{Bytes: info.Size(), Stripped: f.Section(".symtab") == nil}, nil
}
