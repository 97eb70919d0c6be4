package seglog

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

const (
	markName    = "mark"
	markMagic   = "TGM1"
	markVersion = 1
	markSize    = 64
	markSlots   = 2

	offMarkCounter = 8
	offMarkIndex   = 16
	offMarkOffset  = 24
	offMarkCRC     = 60
)

// synced is a place up to which the log has been synced.
type synced struct {
	index  uint64
	offset int64
}

// markFile remembers how far the log has been synced: two slots a sector
// apart, written in turn, so that a torn write leaves the other. It is written
// after a sync and not synced itself: a mark that a power cut throws back only
// widens the range in which an unreadable record counts as torn. It never runs
// ahead of the data; whoever shortens the log lowers and syncs it first.
type markFile struct {
	f       vfs.File
	counter uint64
	buf     [markSize]byte
}

// openMark opens or creates the mark in dir. known is false when no slot can be
// read; the file then gets a fresh one with the next write.
func openMark(fsys vfs.FS, dir string) (m *markFile, at synced, known bool, err error) {
	path := filepath.Join(dir, markName)
	f, err := fsys.OpenReadWrite(path)
	if errors.Is(err, tidegate.ErrNotFound) {
		f, err = fsys.Create(path)
	}
	if err != nil {
		return nil, at, false, err
	}
	m = &markFile{f: f}
	b := make([]byte, markSlots*vfs.SectorSize)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, at, false, errors.Join(err, f.Close())
	}
	for slot := range markSlots {
		start := slot * vfs.SectorSize
		if n < start+markSize {
			break
		}
		s, counter, ok, err := decodeMark(b[start : start+markSize])
		if err != nil {
			return nil, at, false, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
		}
		if ok && (!known || counter > m.counter) {
			at, known, m.counter = s, true, counter
		}
	}
	return m, at, known, nil
}

func decodeMark(b []byte) (s synced, counter uint64, ok bool, err error) {
	if string(b[:len(markMagic)]) != markMagic || crc32.Checksum(b[:offMarkCRC], castagnoli) != le.Uint32(b[offMarkCRC:]) {
		return s, 0, false, nil
	}
	if v := le.Uint16(b[offVersion:]); v != markVersion {
		return s, 0, false, fmt.Errorf("mark version %d: %w", v, tidegate.ErrUnsupported)
	}
	s = synced{index: le.Uint64(b[offMarkIndex:]), offset: int64(le.Uint64(b[offMarkOffset:]))}
	return s, le.Uint64(b[offMarkCounter:]), true, nil
}

// write puts s into the slot whose turn it is.
func (m *markFile) write(s synced) error {
	m.counter++
	b := m.buf[:]
	clear(b)
	copy(b, markMagic)
	le.PutUint16(b[offVersion:], markVersion)
	le.PutUint64(b[offMarkCounter:], m.counter)
	le.PutUint64(b[offMarkIndex:], s.index)
	le.PutUint64(b[offMarkOffset:], uint64(s.offset))
	le.PutUint32(b[offMarkCRC:], crc32.Checksum(b[:offMarkCRC], castagnoli))
	_, err := m.f.WriteAt(b, int64(m.counter%markSlots)*vfs.SectorSize)
	return err
}

// settle puts s into every slot and syncs: no older mark can come back.
func (m *markFile) settle(s synced) error {
	for range markSlots {
		if err := m.write(s); err != nil {
			return err
		}
	}
	return m.f.Sync()
}

// forget makes the mark say nothing, durably.
func (m *markFile) forget() error {
	if _, err := m.f.WriteAt(make([]byte, markSlots*vfs.SectorSize), 0); err != nil {
		return err
	}
	return m.f.Sync()
}
