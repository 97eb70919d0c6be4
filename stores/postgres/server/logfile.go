package server

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"

	"github.com/tidegate/tidegate"
)

// tail reads a server's log from a place on, line by line. It belongs to one
// goroutine.
type tail struct {
	server *Server
	at     int64
	part   []byte // of a line whose end is not there yet
}

// logLineMax bounds a line; the rest of a longer one is a line of its own.
const logLineMax = 64 << 10

// end is where the log ends now.
func (s *Server) logEnd() (int64, error) {
	info, err := s.fsys.Stat(s.LogPath())
	if errors.Is(err, tidegate.ErrNotFound) {
		return 0, nil
	}
	return info.Size, err
}

// read calls each with every whole line that has come since the last call.
func (t *tail) read(each func(line string)) error {
	f, err := t.server.fsys.Open(t.server.LogPath())
	if errors.Is(err, tidegate.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	err = t.readFrom(f, each)
	return errors.Join(err, f.Close())
}

func (t *tail) readFrom(f interface {
	io.ReaderAt
	Size() (int64, error)
}, each func(line string),
) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	if size < t.at {
		t.at, t.part = 0, nil // it began anew
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := f.ReadAt(buf, t.at)
		t.at += int64(n)
		t.part = append(t.part, buf[:n]...)
		for {
			i := bytes.IndexByte(t.part, '\n')
			if i < 0 && len(t.part) < logLineMax {
				break
			}
			if i < 0 {
				i = len(t.part) - 1
			}
			each(string(t.part[:i]))
			t.part = append(t.part[:0], t.part[i+1:]...)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// findings reads what has come since the last call and keeps what matters.
func (t *tail) findings() ([]Finding, error) {
	var found []Finding
	now := t.server.clk.Wall()
	err := t.read(func(line string) {
		if f, ok := Classify(line); ok {
			f.At = now
			found = append(found, f)
		}
	})
	return found, err
}

// renewLog begins the log file anew when it has grown too large, keeping the old
// text in one older file. The server goes on writing to the same file, at its
// end, which is its beginning then. A line that it writes in between is lost.
func (s *Server) renewLog(t *tail) error {
	if t.at < s.cfg.LogBytesMax {
		return nil
	}
	older := filepath.Join(s.cfg.Home, logDir, olderLogFile)
	if err := s.fsys.Remove(older); err != nil && !errors.Is(err, tidegate.ErrNotFound) {
		return err
	}
	to, err := s.fsys.Create(older)
	if err != nil {
		return err
	}
	from, err := s.fsys.OpenReadWrite(s.LogPath())
	if err != nil {
		return errors.Join(err, to.Close())
	}
	_, err = io.Copy(to, from)
	if err == nil {
		err = from.Truncate(0)
	}
	if err == nil {
		t.at, t.part = 0, nil
	}
	return errors.Join(err, from.Close(), to.Close(), s.own(older))
}
