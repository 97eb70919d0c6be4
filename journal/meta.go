package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/quarantine"
	"github.com/tidegate/tidegate/internal/vfs"
)

// The names in a journal's directory.
const (
	metaName       = "meta.json"
	lockName       = "lock"
	logName        = "log"
	quarantineName = quarantine.DirName
)

const (
	metaFormat  = "tidegate-journal"
	metaVersion = 1
)

// meta is what a journal is, beside its records. Branches are written before
// their records: a branch that the records do not confirm never happened.
type meta struct {
	Format       string      `json:"format"`
	Version      int         `json:"version"`
	ID           tidegate.ID `json:"id"`
	Drawn        bool        `json:"drawn,omitempty"` // at random, and this journal has written nothing of its own yet
	SegmentBytes int64       `json:"segmentBytes"`
	Branches     []Branch    `json:"branches,omitempty"`
}

// lineage returns journal:<id>+<epoch>@<position>...
func (m meta) lineage() tidegate.Lineage {
	var b strings.Builder
	b.WriteString("journal:" + m.ID.String())
	for _, br := range m.Branches {
		fmt.Fprintf(&b, "+%s@%s", br.Epoch, br.Position)
	}
	return tidegate.Lineage(b.String())
}

// with returns m with one more branch, m itself if it is known already.
func (m meta) with(b Branch) meta {
	for _, have := range m.Branches {
		if have == b {
			return m
		}
	}
	m.Branches = append(append([]Branch(nil), m.Branches...), b)
	return m
}

func (m meta) has(b Branch) bool { return len(m.with(b).Branches) == len(m.Branches) }

func (m meta) write(fsys vfs.FS, dir string) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("write journal meta: %w", err)
	}
	return durable.WriteFile(fsys, filepath.Join(dir, metaName), append(data, '\n'))
}

// readMeta returns tidegate.ErrNotFound if there is no journal in dir.
func readMeta(fsys vfs.FS, dir string) (meta, error) {
	path := filepath.Join(dir, metaName)
	data, err := readFile(fsys, path)
	if err != nil {
		return meta{}, fmt.Errorf("read journal meta: %w", err)
	}
	var m meta
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil {
		return meta{}, &tidegate.CorruptError{Path: path, Offset: -1, What: err.Error()}
	}
	if m.Format != metaFormat || m.Version != metaVersion {
		return meta{}, fmt.Errorf("read journal meta %s: format %q version %d: %w", path, m.Format, m.Version, tidegate.ErrUnsupported)
	}
	if m.ID.IsZero() || m.SegmentBytes <= 0 {
		return meta{}, &tidegate.CorruptError{Path: path, Offset: -1, What: "no id or no segment size"}
	}
	return m, nil
}

func readFile(fsys vfs.FS, path string) (data []byte, err error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > metaBytesMax {
		return nil, &tidegate.CorruptError{Path: path, Offset: -1, What: fmt.Sprintf("%d bytes long", size)}
	}
	data = make([]byte, size)
	if n, err := f.ReadAt(data, 0); n < len(data) {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

// metaBytesMax bounds the meta file: some ten thousand branches.
const metaBytesMax = 1 << 20

// ReadLineage returns the lineage of the journal in dir, from another process
// than the one that has it open.
func ReadLineage(fsys vfs.FS, dir string) (tidegate.Lineage, error) {
	m, err := readMeta(fsys, dir)
	if err != nil {
		return "", err
	}
	return m.lineage(), nil
}

// metaOf takes a lineage apart: id and branches alone are filled in.
func metaOf(l tidegate.Lineage) (m meta, err error) {
	if m.ID, err = LineageID(l); err != nil {
		return m, err
	}
	_, rest, more := strings.Cut(string(l), "+")
	for more {
		var one string
		one, rest, more = strings.Cut(rest, "+")
		epoch, at, _ := strings.Cut(one, "@")
		var b Branch
		if b.Epoch, err = tidegate.ParseEpoch(epoch); err != nil {
			return m, fmt.Errorf("parse lineage %q: %w", l, err)
		}
		if b.Position, err = tidegate.ParsePosition(at); err != nil {
			return m, fmt.Errorf("parse lineage %q: %w", l, err)
		}
		m.Branches = append(m.Branches, b)
	}
	return m, nil
}

// LineageID returns the journal id a lineage begins with.
func LineageID(l tidegate.Lineage) (tidegate.ID, error) {
	rest, ok := strings.CutPrefix(string(l), "journal:")
	if !ok {
		return tidegate.ID{}, fmt.Errorf("parse lineage %q: want journal:<id>", l)
	}
	id, _, _ := strings.Cut(rest, "+")
	return tidegate.ParseID(id)
}

// LineageBefore returns a journal's lineage without the forks that lie at p or behind it:
// what the journal was before p.
func LineageBefore(l tidegate.Lineage, p tidegate.Position) (tidegate.Lineage, error) {
	m, err := metaOf(l)
	if err != nil {
		return "", err
	}
	return m.before(p), nil
}

// before returns the lineage without the forks that lie at p or behind it.
func (m meta) before(p tidegate.Position) tidegate.Lineage {
	m.Branches = slices.DeleteFunc(slices.Clone(m.Branches), func(b Branch) bool { return b.Position >= p })
	return m.lineage()
}
