package shadow

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

// What a drill leaves free on the file system of its sandbox, bytes. Where live data lies
// on the same one, that is the live site's own reserve.
const (
	roomLeft     = 64 << 20
	liveRoomMin  = 1 << 30
	liveRoomPart = 10 // of the file system: one part of so many
)

// space watches over the file system of a sandbox. All methods may be called concurrently.
type space struct {
	fs     vfs.FS
	dir    string // on it
	shared string // the live directory that lies on it too; empty: none
}

// spaceOf is the space of a scratch directory that exists.
func spaceOf(fsys vfs.FS, scratch string, lives []string) space {
	s := space{fs: fsys, dir: scratch}
	own, err := device(scratch)
	for _, live := range lives {
		there, liveErr := device(live)
		if errors.Is(liveErr, os.ErrNotExist) {
			continue
		}
		if err != nil || liveErr != nil || own == there { // nobody says that it is another one
			s.shared = live
		}
	}
	return s
}

func device(path string) (uint64, error) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	return st.Dev, err
}

// kept is how much a drill must leave free of so much.
func (s space) kept(total uint64) uint64 {
	if s.shared == "" {
		return roomLeft
	}
	return max(liveRoomMin, total/liveRoomPart)
}

// need refuses what does not fit beside what must stay free.
func (s space) need(bytes uint64) error {
	free, total, err := s.fs.Free(s.dir)
	if err != nil {
		return err
	}
	if kept := s.kept(total); free < bytes+kept {
		why := ""
		if s.shared != "" {
			why = fmt.Sprintf(", of which %d MiB stay free for the live directory %s on the same file system", kept>>20, s.shared)
		}
		return &tidegate.Error{
			Op: "clone into", Subject: s.dir, Class: tidegate.Refused, Err: fmt.Errorf("%d MiB are free, and %d MiB are needed%s: %w", free>>20, (bytes+kept)>>20, why, tidegate.ErrFull),
			Hint: "make room, or name a scratch directory on a larger file system, best of its own",
		}
	}
	return nil
}

// harmed says that the drill takes room that is the live site's; nil: it does not.
func (s space) harmed() error {
	if s.shared == "" {
		return nil
	}
	free, total, err := s.fs.Free(s.dir)
	if err != nil {
		return fmt.Errorf("nobody says how much is free of the file system that live directory %s lies on: %w", s.shared, err)
	}
	if kept := s.kept(total); free < kept {
		return fmt.Errorf("%d MiB are free of the file system that live directory %s lies on, and %d MiB must stay free", free>>20, s.shared, kept>>20)
	}
	return nil
}
