package pgrun

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// initdb fills dir with a new cluster. initdb(1) itself runs once for each set of
// arguments on this machine, because it takes longer than much of what is done with a
// cluster afterwards; what it has made is kept in /tmp, copied, and each copy gets a
// system identifier of its own. args are without the directory.
func (in Install) initdb(dir string, args ...string) error {
	template, err := in.template(args)
	if err != nil {
		return err
	}
	if err := copyTree(template, dir); err != nil {
		return err
	}
	if err := renameSystem(dir); err != nil {
		return fmt.Errorf("copy of %s: %w", template, err)
	}
	return nil
}

// template returns the directory of a cluster that nobody has ever started.
func (in Install) template(args []string) (string, error) {
	program, err := in.Tool("initdb")
	if err != nil {
		return "", err
	}
	st, err := os.Stat(program)
	if err != nil {
		return "", err
	}
	what := sha256.Sum256(fmt.Append(nil, program, st.Size(), st.ModTime().UnixNano(), args))
	path := fmt.Sprintf("/tmp/pgrun-template-%d-%x", in.Account.UID, what[:8])
	switch st, err := os.Lstat(path); {
	case err == nil && st.IsDir() && st.Sys().(*syscall.Stat_t).Uid == in.Account.UID:
		return path, nil
	case err == nil:
		return "", fmt.Errorf("%s is not a directory of %s: remove it", path, in.Account.Name)
	case !os.IsNotExist(err):
		return "", err
	}
	place, err := in.Place()
	if err != nil {
		return "", err
	}
	fresh := filepath.Join(place, "data")
	_, err = in.Run("initdb", append([]string{"-D", fresh}, args...)...)
	if err == nil {
		// Whoever was quicker has made the same.
		if err = os.Rename(fresh, path); errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) {
			err = nil
		}
	}
	return path, errors.Join(err, os.RemoveAll(place))
}

// renameSystem gives a cluster that was never started an identifier of its own: in its
// control file, which begins with it and ends with a CRC-32C, and in the first page of
// its log, whose header has none (src/include/catalog/pg_control.h, access/xlog_internal.h).
func renameSystem(dir string) error {
	now := time.Now()
	id := uint64(now.Unix())<<32 | uint64(now.Nanosecond()/1000)<<12 | uint64(os.Getpid())&0xfff // as initdb makes it
	err := patch(filepath.Join(dir, "global", "pg_control"), func(b []byte) error {
		table := crc32.MakeTable(crc32.Castagnoli)
		for end := 8; end+4 <= len(b); end += 4 {
			if crc32.Checksum(b[:end], table) == binary.NativeEndian.Uint32(b[end:]) {
				binary.NativeEndian.PutUint64(b, id)
				binary.NativeEndian.PutUint32(b[end:], crc32.Checksum(b[:end], table))
				return nil
			}
		}
		return errors.New("no checksum in it")
	})
	if err != nil {
		return err
	}
	names, err := os.ReadDir(filepath.Join(dir, "pg_wal"))
	if err != nil {
		return err
	}
	for _, n := range names {
		if len(n.Name()) != 24 || strings.Trim(n.Name(), "0123456789ABCDEF") != "" {
			continue
		}
		const longHeader, idAt = 0x2, 24
		err := patch(filepath.Join(dir, "pg_wal", n.Name()), func(b []byte) error {
			if len(b) < idAt+8 || binary.NativeEndian.Uint16(b[2:])&longHeader == 0 {
				return errors.New("it does not begin with a long page header")
			}
			binary.NativeEndian.PutUint64(b[idAt:], id)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// patch changes the first page of a file.
func patch(path string, change func(page []byte) error) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	page := make([]byte, 8192)
	n, err := f.ReadAt(page, 0)
	if n < len(page) {
		return err
	}
	if err := change(page); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	_, err = f.WriteAt(page, 0)
	return err
}
