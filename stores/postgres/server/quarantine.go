package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/quarantine"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// walBelow is where log files are kept in a quarantine, beside controlKept.
const (
	walBelow    = "wal"
	controlKept = "pg_control"
)

// Detail is what the summary of a quarantine says beyond the form that all have.
type Detail struct {
	Lineage tidegate.Lineage `json:"lineage"` // of the data
	Against tidegate.Lineage `json:"against"` // of the log that it left
	Log     wal.Summary      `json:"log"`
}

// bundle completes what the caller knows of the stream.
func (d *divergent) bundle(about quarantine.Summary, files []quarantine.File) (quarantine.Summary, error) {
	detail, err := json.Marshal(Detail{Lineage: d.own.Text(), Against: d.against.Text(), Log: d.summary})
	if err != nil {
		return about, err
	}
	from, to := d.summary.From, d.summary.To
	about.Kind, about.Reason, about.Files, about.Detail = quarantine.KindServerTail, "diverged", files, detail
	about.Positions = &quarantine.Positions{First: from.Position(), Next: to.Position()}
	about.Records, about.Bytes = quarantine.Count(d.summary.Commits), quarantine.Count(d.summary.Bytes())
	if d.summary.Oldest != nil {
		about.Oldest, about.Newest = *d.summary.Oldest, *d.summary.Newest
	}
	about.Note = d.summary.String()
	dump := fmt.Sprintf("pg_waldump --path=%s --timeline=%d --start=%s --end=%s", quarantine.Here+"/"+walBelow, d.own.Timeline(), from, to)
	about.Look = []string{dump + " --rmgr=Transaction", dump}
	return about, nil
}

// divergent is what the data has beyond its parting with the log.
type divergent struct {
	own     wal.Lineage
	against wal.Lineage
	summary wal.Summary
	files   []string // in pg_wal
}

// divergence reads the data's own log from the parting on; nil when there is
// nothing in it.
func (s *Server) divergence(against wal.Lineage) (*divergent, error) {
	c, err := s.Control()
	if err != nil {
		return nil, err
	}
	text, err := readFile(s.fsys, s.inData(filepath.Join(walDir, c.Newest().HistoryFileName())))
	if err != nil {
		return nil, err
	}
	history, err := wal.ParseHistory(c.Newest(), text)
	if err != nil {
		return nil, err
	}
	own, err := wal.NewLineage(c.System, c.Newest(), history)
	if err != nil {
		return nil, err
	}
	at, never, err := own.Parting(against)
	if err != nil {
		return nil, errors.Join(err, ErrNeedsBase)
	}
	if never {
		return nil, nil
	}
	d := &divergent{own: own, against: against}
	names, err := s.segments(c.SegmentSize, at)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	if d.summary, err = s.summarize(c, at, names); err != nil {
		return nil, err
	}
	if d.summary.To <= at && ordinary(d.summary.Ended) {
		return nil, nil
	}
	for _, name := range names {
		_, start, err := c.SegmentSize.ParseFileName(name)
		if err != nil {
			return nil, err
		}
		// Behind the end lie files made ahead for log to come.
		if start <= d.summary.To || !ordinary(d.summary.Ended) {
			d.files = append(d.files, name)
		}
	}
	return d, nil
}

// ordinary reports whether log ends like this when nothing is wrong with it:
// with zeros, or with what a recycled file had before.
func ordinary(k wal.FaultKind) bool { return k == "" || k == wal.FaultEnd || k == wal.FaultPage }

// segments lists the segment files that hold anything from at on, in the order of
// the log; of one segment, a later timeline's last.
func (s *Server) segments(size wal.SegmentSize, at wal.LSN) ([]string, error) {
	names, err := s.fsys.List(s.inData(walDir))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range names {
		whole := strings.TrimSuffix(name, ".partial")
		if _, start, err := size.ParseFileName(whole); err == nil && start+wal.LSN(size) > at && whole == name {
			out = append(out, name)
		}
	}
	slices.SortFunc(out, func(a, b string) int {
		return strings.Compare(a[8:]+a[:8], b[8:]+b[:8])
	})
	return out, nil
}

// summarize reads the log from at to its end, in the latest timeline's files.
func (s *Server) summarize(c Control, at wal.LSN, names []string) (wal.Summary, error) {
	z, err := wal.NewSummarizer(wal.Config{SegmentSize: c.SegmentSize, System: c.System}, wal.Mark{End: at})
	if err != nil {
		return wal.Summary{}, err
	}
	next := at
	for i, name := range names {
		if i+1 < len(names) && names[i+1][8:] == name[8:] {
			continue // a later timeline has the segment too
		}
		_, start, err := c.SegmentSize.ParseFileName(name)
		if err != nil {
			return wal.Summary{}, err
		}
		if c.SegmentSize.Start(next) != start {
			break // a hole: the log ends before it
		}
		ended := false
		path := s.inData(filepath.Join(walDir, name))
		err = pushFile(s.fsys, path, c.SegmentSize.Offset(next), int64(c.SegmentSize), func(b []byte) (bool, error) {
			var err error
			ended, err = z.Push(next, b)
			next += wal.LSN(len(b))
			return ended, err
		})
		if err != nil || ended {
			return z.Summary(), err
		}
	}
	return z.Summary(), nil
}

// pushFile gives a file's bytes [from, limit) to push, until that is done.
func pushFile(fsys vfs.FS, path string, from, limit int64, push func([]byte) (done bool, err error)) (err error) {
	f, err := fsys.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := make([]byte, 256<<10)
	for from < limit {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), limit-from)], from)
		from += int64(n)
		if n > 0 {
			if done, err := push(buf[:n]); done || err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// quarantine copies what has diverged, and what is needed to read it.
func (s *Server) quarantine(ctx context.Context, d *divergent, to string, about quarantine.Summary) error {
	if !filepath.IsAbs(to) {
		return fmt.Errorf("quarantine %q: want an absolute path", to)
	}
	whole, err := s.exists(filepath.Join(to, quarantine.SummaryName))
	if err != nil || whole {
		return err // an earlier attempt's
	}
	// What a copy that was cut off left is in the data still.
	if err := durable.RemoveTree(s.fsys, to); err != nil {
		return err
	}
	dir := filepath.Join(to, walBelow)
	if err := durable.MkdirAll(s.fsys, dir); err != nil {
		return err
	}
	names, err := s.fsys.List(s.inData(walDir))
	if err != nil {
		return err
	}
	keep := map[string]string{} // in the data -> in quarantine
	for _, name := range d.files {
		keep[filepath.Join(walDir, name)] = walBelow + "/" + name
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".history") {
			keep[filepath.Join(walDir, name)] = walBelow + "/" + name
		}
	}
	keep[controlFile] = controlKept
	var files []quarantine.File
	for _, from := range slices.Sorted(maps.Keys(keep)) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := copyFile(s.fsys, s.inData(from), filepath.Join(to, filepath.FromSlash(keep[from])))
		if err != nil {
			return fmt.Errorf("quarantine %s: %w", from, err)
		}
		files = append(files, quarantine.File{Name: keep[from], Bytes: n})
	}
	if err := errors.Join(s.fsys.SyncDir(dir), s.fsys.SyncDir(to)); err != nil {
		return err
	}
	about.Created = s.clk.Wall().UTC()
	if about, err = d.bundle(about, files); err != nil {
		return err
	}
	s.log.Warn("log of this server that nobody else has is in quarantine", "dir", to, "log", d.summary.String())
	return quarantine.Write(s.fsys, to, about)
}

// copyFile copies a file's bytes durably; the name is the caller's to sync.
func copyFile(fsys vfs.FS, from, to string) (n int64, err error) {
	in, err := fsys.Open(from)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := fsys.Create(to)
	if err != nil {
		return 0, err
	}
	n, err = io.Copy(out, in)
	if err == nil {
		err = out.Sync()
	}
	return n, errors.Join(err, out.Close())
}
