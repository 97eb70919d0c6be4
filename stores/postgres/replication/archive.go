package replication

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path"

	"github.com/tidegate/tidegate/snapshot"
)

// copyBytes is how much of a file is handed on at once.
const copyBytes = 256 << 10

// sum is what was seen of a file.
type sum struct {
	size int64
	crc  uint32
}

// taker hands the files of archives to a writer and remembers their sums.
type taker struct {
	w        snapshot.Writer
	seen     map[string]sum // by path in the backup
	buf      []byte
	manifest []byte
	files    int
	bytes    int64
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// takeArchive reads a tar whose entries belong below dir.
func (t *taker) takeArchive(ctx context.Context, dir string, r io.Reader) error {
	if dir != "" {
		if err := t.w.Add(snapshot.File{Path: dir, Kind: snapshot.KindDir, Mode: 0o700}); err != nil {
			return err
		}
	}
	if t.buf == nil {
		t.buf = make([]byte, copyBytes)
	}
	archive := tar.NewReader(r)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("archive of %q: %w", dir, err)
		}
		if err := t.takeEntry(ctx, dir, h, archive); err != nil {
			return err
		}
	}
}

func (t *taker) takeEntry(ctx context.Context, dir string, h *tar.Header, r io.Reader) error {
	name := path.Clean(h.Name)
	if name == "." {
		return nil // the directory that the archive is of
	}
	f := snapshot.File{Path: path.Join(dir, name), Mode: uint32(h.Mode) & 0o777, ModTime: h.ModTime.UnixNano()}
	if !isLocal(name) {
		return fmt.Errorf("archive of %q: entry %q leads out of it", dir, h.Name)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		f.Kind = snapshot.KindDir
		return t.w.Add(f)
	case tar.TypeSymlink:
		f.Kind, f.Link = snapshot.KindLink, h.Linkname
		return t.w.Add(f)
	case tar.TypeReg:
		f.Kind, f.Size = snapshot.KindFile, h.Size
		return t.takeFile(ctx, f, r)
	}
	return fmt.Errorf("archive of %q: entry %q of type %q", dir, h.Name, h.Typeflag)
}

// isLocal reports whether a clean path stays where it is.
func isLocal(name string) bool {
	return name != ".." && !path.IsAbs(name) && (len(name) < 3 || name[:3] != "../")
}

func (t *taker) takeFile(ctx context.Context, f snapshot.File, r io.Reader) (err error) {
	if _, twice := t.seen[f.Path]; twice {
		return fmt.Errorf("file %q comes twice", f.Path)
	}
	w, err := t.w.Create(ctx, f)
	if err != nil {
		return err
	}
	defer func() {
		// After an error the file is short, which Close would say, too.
		if errClose := w.Close(); err == nil {
			err = errClose
		}
	}()
	var s sum
	for s.size < f.Size {
		n, err := io.ReadFull(r, t.buf[:min(int64(len(t.buf)), f.Size-s.size)])
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = fmt.Errorf("ends after %d of %d bytes: %w", s.size+int64(n), f.Size, io.ErrUnexpectedEOF)
			}
			return fmt.Errorf("file %q: %w", f.Path, err)
		}
		s.crc = crc32.Update(s.crc, castagnoli, t.buf[:n])
		s.size += int64(n)
		t.bytes += int64(n)
		if _, err := w.Write(t.buf[:n]); err != nil {
			return err
		}
	}
	t.seen[f.Path] = s
	t.files++
	return nil
}

// takeManifest keeps the server's manifest for the end.
func (t *taker) takeManifest(r io.Reader) (err error) {
	t.manifest, err = io.ReadAll(io.LimitReader(r, ManifestBytesMax+1))
	if err == nil && len(t.manifest) > ManifestBytesMax {
		err = fmt.Errorf("manifest: longer than %d bytes", ManifestBytesMax)
	}
	return err
}

// verify compares what came with the manifest, and hands that on, too.
func (t *taker) verify(ctx context.Context, b Backup) (err error) {
	m, err := ParseManifest(t.manifest)
	if err != nil {
		return err
	}
	if err := m.compare(t.seen, b); err != nil {
		return err
	}
	w, err := t.w.Create(ctx, snapshot.File{Path: ManifestName, Kind: snapshot.KindFile, Mode: 0o600, Size: int64(len(t.manifest))})
	if err != nil {
		return err
	}
	_, err = w.Write(t.manifest)
	return errors.Join(err, w.Close())
}
