package quarantine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

// Version is that of the summaries that are written, and the only one that is read.
// Before it each package had a form of its own; the agent's called itself 1.
const Version = 2

// SummaryName is the summary's file in a bundle.
const SummaryName = "summary.json"

// summaryBytesMax bounds what is read: a summary may name ten thousand transactions.
const summaryBytesMax = 4 << 20

// Kind is what a bundle holds.
type Kind string

// The kinds. They are on disks and never change.
const (
	KindLogTail     Kind = "log-tail"     // sealed batches that a node's log was cut of
	KindJournalTail Kind = "journal-tail" // records that a journal was cut of
	KindSourceTail  Kind = "source-tail"  // an agent's copy of what a source's log went on with
	KindServerTail  Kind = "server-tail"  // log files of a database server, from where it parted
	KindLogAside    Kind = "log-aside"    // a stream's log, whole, that an operator set aside
	KindDataAside   Kind = "data-aside"   // a database server's data, whole, that could not follow
	KindBaseAside   Kind = "base-aside"   // the manifest of a base that a node found damaged, and did not need
	KindTorn        Kind = "torn"         // the unreadable end of a log, found at a start; has no summary
)

var kinds = map[Kind]bool{
	KindLogTail: true, KindJournalTail: true, KindSourceTail: true, KindServerTail: true, KindLogAside: true, KindDataAside: true,
	KindBaseAside: true,
}

// Summary says what a bundle is. A pointer that is nil, a zero time and an empty
// name are unknown.
//
// Invariants:
//  1. Version is [Version], Kind is known and is not torn
//  2. Positions are half-open and do not run backwards, neither do Seqs
//  3. counts are not negative
//  4. Files lie in the bundle: no path leads out of it
type Summary struct {
	Version int                  `json:"version"`
	Kind    Kind                 `json:"kind"`
	ID      tidegate.ID          `json:"id,omitzero"` // under which the gate was told of it
	Node    tidegate.NodeName    `json:"node,omitempty"`
	Service tidegate.ServiceName `json:"service,omitempty"`
	Stream  tidegate.StreamName  `json:"stream,omitempty"`
	// StreamID is the stream's; a store may not know it.
	StreamID tidegate.StreamID `json:"stream_id,omitzero"`
	Reason   string            `json:"reason,omitempty"`
	Created  time.Time         `json:"created,omitzero"` // wall clock of the node

	Generation    tidegate.Generation `json:"generation,omitzero"`
	CutEpoch      tidegate.Epoch      `json:"cut_epoch,omitzero"`       // the epoch that goes on without it
	WrittenEpochs []tidegate.Epoch    `json:"written_epochs,omitempty"` // under which it was written, ascending

	Positions *Positions `json:"positions,omitempty"`
	Seqs      *Seqs      `json:"seqs,omitempty"`
	Batches   *int64     `json:"batches,omitempty"`
	Records   *int64     `json:"records,omitempty"` // of the source; of a database its committed transactions
	Bytes     *int64     `json:"bytes,omitempty"`   // of log, opened: not what it takes on the disk
	Oldest    time.Time  `json:"oldest,omitzero"`   // source times of its records
	Newest    time.Time  `json:"newest,omitzero"`
	Released  *Released  `json:"released,omitempty"`

	Note   string          `json:"note,omitempty"`   // one line in the words of whoever wrote it
	Look   []string        `json:"look,omitempty"`   // commands that look into it; [Here] stands for its path
	Files  []File          `json:"files,omitempty"`  // that must be there; not all of them, where the list is partial or absent
	Detail json.RawMessage `json:"detail,omitempty"` // the writer's own
}

// Here stands for a bundle's path in the commands of [Summary.Look]: the path may
// be another when they are run.
const Here = "{bundle}"

// Positions is a half-open range of a source's log.
type Positions struct {
	First tidegate.Position `json:"first"`
	Next  tidegate.Position `json:"next"` // exclusive
}

// Seqs is a range of batches, both ends in it.
type Seqs struct {
	First tidegate.Seq `json:"first"`
	Last  tidegate.Seq `json:"last"`
}

// Released says what of a tail had been let go to clients.
type Released struct {
	Records int64     `json:"records"`
	Bytes   int64     `json:"bytes"`
	Newest  time.Time `json:"newest,omitzero"` // source time; zero if there was none
}

// File is a file of a bundle.
type File struct {
	Name  string `json:"name"` // below the bundle, with slashes
	Bytes int64  `json:"bytes"`
}

// Count is a number that is known.
func Count[N ~int | ~int64 | ~uint64](n N) *int64 {
	v := int64(n) //nolint:gosec // records and bytes of one log
	return &v
}

// valid checks the numbered invariants.
func (s *Summary) valid() error {
	switch {
	case s.Version != Version:
		return fmt.Errorf("version %d, want %d: %w", s.Version, Version, tidegate.ErrUnsupported)
	case !kinds[s.Kind]:
		return fmt.Errorf("kind %q: %w", s.Kind, tidegate.ErrUnsupported)
	case s.Positions != nil && s.Positions.Next < s.Positions.First:
		return fmt.Errorf("positions from %s to %s", s.Positions.First, s.Positions.Next)
	case s.Seqs != nil && s.Seqs.Last < s.Seqs.First:
		return fmt.Errorf("batches from %s to %s", s.Seqs.First, s.Seqs.Last)
	case s.Released != nil && (s.Released.Records < 0 || s.Released.Bytes < 0):
		return errors.New("less than nothing was released")
	}
	for _, n := range []*int64{s.Batches, s.Records, s.Bytes} {
		if n != nil && *n < 0 {
			return fmt.Errorf("count of %d", *n)
		}
	}
	for _, f := range s.Files {
		if !filepath.IsLocal(f.Name) || f.Bytes < 0 {
			return fmt.Errorf("file %q of %d bytes", f.Name, f.Bytes)
		}
	}
	return nil
}

// Encode sets the version and returns the file's bytes.
func (s Summary) Encode() ([]byte, error) {
	s.Version = Version
	if err := s.valid(); err != nil {
		return nil, fmt.Errorf("encode summary: %w", err)
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode summary: %w", err)
	}
	return append(b, '\n'), nil
}

// Parse reads a file's bytes. An error wraps tidegate.ErrUnsupported when another
// release has written it.
func Parse(b []byte) (s Summary, err error) {
	if err := json.Unmarshal(b, &s); err != nil {
		return Summary{}, fmt.Errorf("parse summary: %w", err)
	}
	if err := s.valid(); err != nil {
		return Summary{}, fmt.Errorf("parse summary: %w", err)
	}
	return s, nil
}

// Write makes a summary durable in its bundle, after everything else there is.
func Write(fsys vfs.FS, dir string, s Summary) error {
	b, err := s.Encode()
	if err != nil {
		return err
	}
	return durable.WriteFile(fsys, filepath.Join(dir, SummaryName), b)
}

// Read reads the summary of the bundle in dir. tidegate.ErrNotFound: there is none.
// A *tidegate.CorruptError: it cannot be understood.
func Read(fsys vfs.FS, dir string) (s Summary, err error) {
	path := filepath.Join(dir, SummaryName)
	f, err := fsys.Open(path)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b, err := io.ReadAll(io.LimitReader(f, summaryBytesMax+1))
	switch {
	case err != nil:
		return s, fmt.Errorf("read %s: %w", path, err)
	case len(b) > summaryBytesMax:
		return s, &tidegate.CorruptError{Path: path, Offset: -1, What: fmt.Sprintf("more than %d bytes", summaryBytesMax)}
	}
	s, err = Parse(b)
	if errors.Is(err, tidegate.ErrUnsupported) {
		return s, &tidegate.Error{
			Op: "read", Subject: path, Class: tidegate.Permanent, Err: err,
			Hint: "another release has kept it: look with that one, or move the directory away",
		}
	}
	if err != nil {
		return s, &tidegate.CorruptError{Path: path, Offset: -1, What: err.Error()}
	}
	return s, nil
}
