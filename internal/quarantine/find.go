package quarantine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

// Names in a directory that [Find] looks at.
const (
	DirName       = "quarantine" // of bundles: of a node, an agent, a journal, a server's home
	AsideName     = "aside"      // of data directories that were moved out of the way, in a server's home
	TornName      = "torn"       // of the ends of logs that could not be read, in a quarantine
	PartialSuffix = ".partial"   // of a bundle that is being made, or was not finished
)

// State is what can be said of a bundle without reading all of it.
type State string

// The states.
const (
	StateWhole      State = "whole"      // what its summary names is there; a torn end has no more than itself
	StateBare       State = "bare"       // moved aside, and nothing says by whom and why
	StateUnfinished State = "unfinished" // a copy that was cut off: what it was of is where it was
	StateDamaged    State = "damaged"    // see Damage
)

// Bundle is one thing that lies in quarantine.
type Bundle struct {
	Name     string // last element of its path; of a torn end the last two
	Path     string
	Kind     Kind // as the summary says, else as the place does; empty when neither does
	State    State
	Damage   string            // why it is damaged
	StreamID tidegate.StreamID // as the summary or the place says; zero when neither does
	Summary  *Summary          // nil: there is none, or it cannot be read
	// Bytes is what its files add up to; nil when they cannot be counted.
	Bytes *int64
}

// Find lists what lies in quarantine below dir, which is the data directory of a
// node or an agent, the home of a warm server, or a journal, in the order of the
// paths. It changes nothing, and may run beside the daemon whose directory it is.
// What cannot be read, dir included, is a damaged bundle. An error is that dir is no
// directory, or wraps tidegate.ErrNotFound: it is not there.
func Find(dir string) ([]Bundle, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("look for bundles: %w", err)
	}
	info, err := os.Stat(dir)
	fail := func(err error) ([]Bundle, error) {
		return nil, &tidegate.Error{
			Op: "look for bundles in", Subject: dir, Class: tidegate.Misuse, Err: err,
			Hint: "want a node's or an agent's data directory, a warm server's home, or a journal",
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail(fmt.Errorf("no such directory: %w", tidegate.ErrNotFound))
	case err != nil:
		return []Bundle{unreadable(dir, err, place{})}, nil
	case !info.IsDir():
		return fail(errors.New("is not a directory"))
	}
	var found []Bundle
	found = in(found, filepath.Join(dir, DirName), place{streams: true})
	found = in(found, filepath.Join(dir, AsideName), place{kind: KindDataAside})
	slices.SortStableFunc(found, func(a, b Bundle) int { return strings.Compare(a.Path, b.Path) })
	return found, nil
}

// place is what a directory says of the bundles in it.
type place struct {
	kind    Kind              // of those without a summary; empty where they must have one
	stream  tidegate.StreamID // of all of them
	streams bool              // it has directories of streams
	torn    bool              // it has files, each the torn end of a log
}

// in adds the bundles of a directory.
func in(found []Bundle, dir string, p place) []Bundle {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return found
	}
	if err != nil {
		found = append(found, unreadable(dir, err, p))
	}
	for _, e := range entries {
		name, path := e.Name(), filepath.Join(dir, e.Name())
		info, err := os.Stat(path)
		switch id, idErr := tidegate.ParseID(name); {
		case errors.Is(err, fs.ErrNotExist) && e.Type()&fs.ModeSymlink == 0:
			// The daemon has given it another name meanwhile, or somebody took it away.
		case err != nil:
			found = append(found, unreadable(path, err, p))
		case p.torn:
			found = append(found, tornEnd(path, info, p))
		case !info.IsDir():
			if !beside(name, entries) {
				found = append(found, Bundle{
					Name: name, Path: path, State: StateDamaged, Damage: "a file that is part of no bundle", StreamID: p.stream, Bytes: Count(info.Size()),
				})
			}
		case p.streams && idErr == nil:
			found = in(found, path, place{stream: id})
		case name == TornName && p.kind == "":
			found = in(found, path, place{kind: KindTorn, stream: p.stream, torn: true})
		default:
			found = append(found, look(path, p))
		}
	}
	return found
}

// unreadable is what cannot be looked into: it is not empty for that.
func unreadable(path string, err error, p place) Bundle {
	return Bundle{Name: filepath.Base(path), Path: path, State: StateDamaged, Damage: err.Error(), StreamID: p.stream}
}

// beside reports whether a file belongs to a directory of its own name's beginning,
// as what SetAside puts beside a log does.
func beside(name string, entries []os.DirEntry) bool {
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.IsDir() && strings.HasPrefix(name, e.Name()+"-") })
}

func tornEnd(path string, info fs.FileInfo, p place) Bundle {
	b := Bundle{
		Name: filepath.Join(TornName, filepath.Base(path)), Path: path, Kind: KindTorn, State: StateWhole, StreamID: p.stream, Bytes: Count(info.Size()),
	}
	if info.IsDir() {
		b.State, b.Damage, b.Bytes = StateDamaged, "a directory, want the torn end of a log", treeBytes(path)
	}
	return b
}

// asidePrefix begins the names of logs that were set aside: their summary is
// written after they have moved, and may be missing.
const asidePrefix = "aside-"

// look says what can be said of one bundle.
func look(path string, p place) Bundle {
	b := Bundle{Name: filepath.Base(path), Path: path, Kind: p.kind, State: StateWhole, StreamID: p.stream, Bytes: treeBytes(path)}
	if b.Kind == "" && !p.streams && strings.HasPrefix(b.Name, asidePrefix) {
		b.Kind = KindLogAside
	}
	s, err := Read(vfs.OS(), path)
	switch {
	case err == nil:
		b.Summary, b.Kind = &s, s.Kind
		if !s.StreamID.IsZero() {
			b.StreamID = s.StreamID
		}
		if err := s.present(path); err != nil {
			b.State, b.Damage = StateDamaged, err.Error()
		}
	case !errors.Is(err, tidegate.ErrNotFound):
		b.State, b.Damage = StateDamaged, err.Error()
	case strings.HasSuffix(path, PartialSuffix):
	case b.Kind != "":
		b.State = StateBare
	default:
		b.State, b.Damage = StateDamaged, "no "+SummaryName
	}
	if strings.HasSuffix(path, PartialSuffix) && b.State != StateDamaged {
		b.State = StateUnfinished
	}
	return b
}

// present compares the files that a summary names with what is there.
func (s *Summary) present(dir string) error {
	for _, f := range s.Files {
		info, err := os.Stat(filepath.Join(dir, filepath.FromSlash(f.Name)))
		switch {
		case err != nil:
			return err
		case info.Size() != f.Bytes:
			return fmt.Errorf("%s: is %d bytes long, was %d", f.Name, info.Size(), f.Bytes)
		}
	}
	return nil
}

// treeBytes adds up the files of a tree, without going through links: those of a
// data directory lead out of it. nil: they cannot be counted.
func treeBytes(dir string) *int64 {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	if err != nil {
		return nil
	}
	return &sum
}
