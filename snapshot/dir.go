package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/tidegate/tidegate"
)

// linksMax bounds how many links in a row lead into directories.
const linksMax = 8

// Directory is what [Build] takes to read the files below root, an ordinary
// directory of this machine: to seed a store ahead of a base that resembles it. A
// link to a directory is gone into, as if its target stood there: that is how
// tablespaces lie. Other links are kept as they are; sockets, pipes and devices
// are left out. What changes while it is read is an error, or an older page; a
// base that is taken properly replaces either.
func Directory(root string, meter *Meter) func(ctx context.Context, w Writer) (Base, error) {
	return func(ctx context.Context, w Writer) (Base, error) {
		total, err := sizeOf(root, 0)
		if err != nil {
			return Base{}, err
		}
		meter.SetTotal(total)
		d := directory{w: w, buf: make([]byte, 256<<10)}
		return Base{}, d.walk(ctx, root, "", 0)
	}
}

type directory struct {
	w   Writer
	buf []byte
}

// sizeOf adds up the files below dir.
func sizeOf(dir string, links int) (sum int64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		at := filepath.Join(dir, e.Name())
		info, deeper, err := look(at, links)
		if err != nil {
			return 0, err
		}
		switch {
		case info.IsDir():
			n, err := sizeOf(at, deeper)
			if err != nil {
				return 0, err
			}
			sum += n
		case info.Mode().IsRegular():
			sum += info.Size()
		}
	}
	return sum, nil
}

// look is Lstat, and Stat of a link to a directory.
func look(at string, links int) (fs.FileInfo, int, error) {
	info, err := os.Lstat(at)
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return info, links, err
	}
	target, err := os.Stat(at)
	if err != nil || !target.IsDir() {
		return info, links, nil //nolint:nilerr // a link to nowhere is a link
	}
	if links == linksMax {
		return nil, links, &tidegate.Error{Op: "read directory", Subject: at, Class: tidegate.Misuse, Err: errors.New("too many links to directories, one inside the other")}
	}
	return target, links + 1, nil
}

func (d *directory) walk(ctx context.Context, at, rel string, links int) error {
	entries, err := os.ReadDir(at)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		from, to := filepath.Join(at, e.Name()), path.Join(rel, e.Name())
		info, deeper, err := look(from, links)
		if err != nil {
			return err
		}
		f := File{Path: to, Mode: uint32(info.Mode().Perm()), ModTime: info.ModTime().UnixNano()}
		switch {
		case info.IsDir():
			f.Kind = KindDir
			if err = d.w.Add(f); err == nil {
				err = d.walk(ctx, from, to, deeper)
			}
		case info.Mode()&fs.ModeSymlink != 0:
			f.Kind = KindLink
			if f.Link, err = os.Readlink(from); err == nil {
				err = d.w.Add(f)
			}
		case info.Mode().IsRegular():
			f.Kind, f.Size = KindFile, info.Size()
			err = d.copy(ctx, from, f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *directory) copy(ctx context.Context, from string, f File) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	w, err := d.w.Create(ctx, f)
	if err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(in, f.Size), d.buf)
	if err == nil && n < f.Size {
		err = fmt.Errorf("read %s: is %d bytes long, was %d: it changes while it is read", from, n, f.Size)
	}
	return errors.Join(err, w.Close())
}
