package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

// The names of states in a journal's directory.
const (
	statesName  = "snapshots"
	stateSuffix = ".state"
)

// statesKept is how many states stay on the disk: the newest, and the one before it,
// should the newest turn out to be damaged.
const statesKept = 2

// The head of a state's file; the state follows.
//
//	 0  4  magic "TGJS"
//	 4  2  version 1
//	 6  2  length of the lineage
//	 8  8  position: everything before it is in the state
//	16  8  records of the journal before it
//	24 16  digest of the state
//	40  8  bytes of the state
//	48  4  CRC-32C of the state
//	52  .  lineage of the journal before the position
//	 .  4  CRC-32C of all before it
const (
	stateMagic   = "TGJS"
	stateVersion = 1
	stateHeadLen = 52
)

// stateHead is what is known of a state that is written down.
type stateHead struct {
	position tidegate.Position
	records  uint64
	digest   tidegate.Digest
	size     int64
	sum      uint32
	lineage  tidegate.Lineage
}

// len returns where the state begins in its file.
func (h *stateHead) len() int64 { return int64(stateHeadLen + len(h.lineage) + 4) }

func (h *stateHead) encode() []byte {
	le := binary.LittleEndian
	b := le.AppendUint16([]byte(stateMagic), stateVersion)
	b = le.AppendUint16(b, uint16(len(h.lineage))) //nolint:gosec // at most local.LineageLenMax
	b = le.AppendUint64(b, uint64(h.position))
	b = le.AppendUint64(b, h.records)
	b = append(b, h.digest[:]...)
	b = le.AppendUint64(b, uint64(h.size)) //nolint:gosec // a file's size
	b = le.AppendUint32(b, h.sum)
	b = append(b, h.lineage...)
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// parseStateHead parses what begins a state's file.
func parseStateHead(b []byte) (h stateHead, err error) {
	le := binary.LittleEndian
	if len(b) < stateHeadLen+4 || string(b[:4]) != stateMagic {
		return h, errors.New("no head of a state")
	}
	if v := le.Uint16(b[4:]); v != stateVersion {
		return h, fmt.Errorf("state of version %d: %w", v, tidegate.ErrUnsupported)
	}
	n := stateHeadLen + int(le.Uint16(b[6:]))
	if len(b) < n+4 || le.Uint32(b[n:]) != crc32.Checksum(b[:n], castagnoli) {
		return h, errors.New("head of a state does not match its checksum")
	}
	h = stateHead{
		position: tidegate.Position(le.Uint64(b[8:])), records: le.Uint64(b[16:]), digest: tidegate.Digest(b[24:40]),
		size: int64(le.Uint64(b[40:])), sum: le.Uint32(b[48:]), lineage: tidegate.Lineage(b[stateHeadLen:n]), //nolint:gosec // compared with the file's size
	}
	return h, nil
}

// states are the states of the service that lie beside the log.
type states struct {
	fs  vfs.FS
	dir string
}

func (s states) path(at tidegate.Position) string {
	return filepath.Join(s.dir, at.String()+stateSuffix)
}

// list returns where there are states, ascending.
func (s states) list() (all []tidegate.Position, err error) {
	names, err := s.fs.List(s.dir)
	if errors.Is(err, tidegate.ErrNotFound) {
		return nil, nil
	}
	for _, name := range names {
		if at, perr := tidegate.ParsePosition(strings.TrimSuffix(name, stateSuffix)); perr == nil && strings.HasSuffix(name, stateSuffix) {
			all = append(all, at)
		}
	}
	slices.Sort(all)
	return all, err
}

// sweep removes what was cut off.
func (s states) sweep() error {
	if _, err := s.fs.Stat(s.dir); errors.Is(err, tidegate.ErrNotFound) {
		return nil
	}
	return durable.SweepTemp(s.fs, s.dir)
}

// write puts a state down, durably; size and checksum are filled in.
func (s states) write(h stateHead, fill func(w io.Writer) error) (stateHead, error) {
	w, err := s.create(h)
	if err != nil {
		return h, err
	}
	if err := fill(w); err != nil {
		return h, fmt.Errorf("write state at %s down: %w", h.position, errors.Join(err, w.t.Discard()))
	}
	return w.commit()
}

// create begins to put a state down, in place of one that lies there.
func (s states) create(h stateHead) (*stateWriter, error) {
	if err := durable.MkdirAll(s.fs, s.dir); err != nil {
		return nil, fmt.Errorf("write state at %s down: %w", h.position, err)
	}
	t, err := durable.Create(s.fs, s.path(h.position))
	if err != nil {
		return nil, fmt.Errorf("write state at %s down: %w", h.position, err)
	}
	return &stateWriter{t: t, h: h, out: vfs.NewAround(t.File, h.len())}, nil
}

// stateWriter writes behind the head, and sums up. The journal beside it is synced all
// the while, and must not wait for a state of many megabytes.
type stateWriter struct {
	t       *durable.Temp
	h       stateHead
	out     *vfs.Around
	written int64
	sum     uint32
}

func (w *stateWriter) Write(p []byte) (int, error) {
	n, err := w.out.Write(p)
	w.written += int64(n)
	w.sum = crc32.Update(w.sum, castagnoli, p[:n])
	return n, err
}

// bytes is how much of the state was written.
func (w *stateWriter) bytes() int64 { return w.written }

// commit writes the head, with size and checksum filled in, and makes all of it durable.
func (w *stateWriter) commit() (stateHead, error) {
	w.h.size, w.h.sum = w.bytes(), w.sum
	err := w.out.Flush()
	if err == nil {
		_, err = w.t.WriteAt(w.h.encode(), 0)
	}
	if err != nil {
		err = errors.Join(err, w.t.Discard())
	} else {
		err = w.t.Commit()
	}
	if err != nil {
		return w.h, fmt.Errorf("write state at %s down: %w", w.h.position, err)
	}
	return w.h, nil
}

// prune removes what newer states stand for. The newest ones stay whatever they are:
// nothing is lost that a replay could need.
func (s states) prune() error {
	all, err := s.list()
	if err != nil {
		return err
	}
	return s.remove(all[:max(0, len(all)-statesKept)])
}

// forget removes the states of what the journal does not hold any more, behind p.
func (s states) forget(p tidegate.Position) error {
	all, err := s.list()
	if err != nil {
		return err
	}
	return s.remove(slices.DeleteFunc(all, func(at tidegate.Position) bool { return at <= p }))
}

func (s states) remove(list []tidegate.Position) error {
	for _, at := range list {
		if err := s.fs.Remove(s.path(at)); err != nil {
			return err
		}
	}
	if len(list) == 0 {
		return nil
	}
	return s.fs.SyncDir(s.dir)
}

// stateFile is a state that is open to be read.
type stateFile struct {
	stateHead
	f vfs.File
}

// open opens a state; its head is verified, its bytes are by reader.
func (s states) open(at tidegate.Position) (*stateFile, error) {
	path := s.path(at)
	f, err := s.fs.Open(path)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	buf := make([]byte, min(size, stateHeadLen+1<<16+4))
	if n, err := f.ReadAt(buf, 0); n < len(buf) {
		return nil, errors.Join(err, f.Close())
	}
	h, err := parseStateHead(buf)
	if err == nil && (h.position != at || h.len()+h.size != size) {
		err = fmt.Errorf("is of %s and %d bytes, by its head", h.position, h.size)
	}
	if err != nil {
		return nil, errors.Join(&tidegate.CorruptError{Path: path, Offset: 0, What: err.Error()}, f.Close())
	}
	return &stateFile{h, f}, nil
}

// readAt reads bytes of the state, not verified.
func (f *stateFile) readAt(b []byte, offset int64) error {
	if n, err := f.f.ReadAt(b, f.len()+offset); n < len(b) {
		return fmt.Errorf("read state at %s: %w", f.position, err)
	}
	return nil
}

// reader reads the state once. In place of the end of one that is damaged it gives an error.
func (f *stateFile) reader() io.Reader { return &stateReader{f: f} }

type stateReader struct {
	f   *stateFile
	at  int64
	sum uint32
}

func (r *stateReader) Read(p []byte) (int, error) {
	if r.at == r.f.size {
		if r.sum != r.f.sum {
			return 0, &tidegate.CorruptError{Path: r.f.f.Name(), Offset: -1, What: "state does not match its checksum"}
		}
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), r.f.size-r.at)]
	if err := r.f.readAt(p, r.at); err != nil {
		return 0, err
	}
	r.at += int64(len(p))
	r.sum = crc32.Update(r.sum, castagnoli, p)
	return len(p), nil
}

func (f *stateFile) close() error { return f.f.Close() }
