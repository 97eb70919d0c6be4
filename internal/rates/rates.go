package rates

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/invariant"
)

// PollEvery is how often the files are looked at. A notification of the kernel
// would be quicker and would fail silently on some file systems; this one
// cannot, and costs a handful of system calls.
const PollEvery = 250 * time.Millisecond

// fileBytesMax bounds what is read of a file that ought to hold one number.
const fileBytesMax = 256

// Rates watches the files of one daemon.
type Rates struct {
	dir string
	clk clock.Clock
	log *slog.Logger

	limiters map[string]*Limiter // by name; never changes

	mu      sync.Mutex
	files   []file
	unknown []string // files that no daemon obeys
	dirErr  string
}

// file is what is known of one of the files.
type file struct {
	limit   Limit
	inForce content
	since   time.Time // wall time at which inForce was first found; zero: since the start
	changes uint64
	found   content // last, whether believed or not
	err     string  // why the file cannot be used; empty when it can
}

// content is what a file said: the zero value, that there is none.
type content struct {
	limited bool
	rate    int64
	err     string
}

// New makes the limiters of a daemon whose files lie in dir. There is no limit
// until the files have been read.
func New(dir string, clk clock.Clock, log *slog.Logger, limits []Limit) *Rates {
	r := &Rates{dir: dir, clk: clk, log: log, limiters: map[string]*Limiter{}}
	for _, l := range limits {
		invariant.Must(r.limiters[l.Name] == nil, "rates: each name once, %q is there twice", l.Name)
		r.limiters[l.Name] = newLimiter()
		r.files = append(r.files, file{limit: l})
	}
	return r
}

// Limiter returns the limiter of a name that New was given; any other name is a
// mistake in the program and panics, because a limit that nobody obeys is worse.
func (r *Rates) Limiter(name string) *Limiter {
	l := r.limiters[name]
	invariant.Must(l != nil, "rates: no limit is named %q", name)
	return l
}

// Run looks at the files until ctx ends, then returns nil.
func (r *Rates) Run(ctx context.Context) error {
	ticker := time.NewTicker(PollEvery)
	defer ticker.Stop()
	for {
		r.Read()
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Read looks at the files once. Call it before the work that is limited begins:
// a daemon that was stopped by a file must not start with a gush.
func (r *Rates) Read() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.files {
		r.take(&r.files[i], read(r.dir, r.files[i].limit))
	}
	r.list()
}

// take decides what a file's content means; mu is held.
func (r *Rates) take(f *file, now content) {
	again := now.limited == f.found.limited && (now.err == "") == (f.found.err == "")
	f.found = now
	path := filepath.Join(r.dir, f.limit.Name)
	if !now.limited && !again && (f.inForce.limited || now.err != "") {
		return // gone or no number: perhaps it is just being written
	}
	if now.err != "" {
		if f.err != now.err {
			f.err = now.err
			r.log.Error("rate not usable, last value stays", "rate", f.limit.Name, "in_force", f.text(f.inForce), "file", path, "err", now.err)
		}
		return
	}
	if f.err != "" {
		f.err = ""
		r.log.Info("rate usable again", "rate", f.limit.Name, "file", path)
	}
	if now == f.inForce {
		return
	}
	r.log.Warn("rate changed", "rate", f.limit.Name, "from", f.text(f.inForce), "to", f.text(now), "file", path)
	f.inForce, f.since = now, r.clk.Wall()
	f.changes++
	rate := int64(noLimit)
	if now.limited {
		rate = now.rate
	}
	r.limiters[f.limit.Name].set(rate)
}

func (f *file) text(c content) string { return f.limit.Unit.Text(c.rate, c.limited) }

// list finds files that no daemon obeys: what an operator has misspelt does
// nothing, and must say so. mu is held.
func (r *Rates) list() {
	entries, err := os.ReadDir(r.dir)
	r.dirErr = ""
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.dirErr = err.Error() // the files themselves report what it keeps them from
		return
	}
	var unknown []string
	for _, e := range entries {
		name := e.Name()
		if strings.ContainsAny(name, ".~") || name == "README" {
			continue // of an editor, of durable.WriteFile, or for people
		}
		if !slices.ContainsFunc(All(), func(l Limit) bool { return l.Name == name }) {
			unknown = append(unknown, name)
			if !slices.Contains(r.unknown, name) {
				r.log.Warn("rate of that name is obeyed by no daemon", "file", filepath.Join(r.dir, name))
			}
		}
	}
	r.unknown = unknown
}

// read looks into one file.
func read(dir string, l Limit) content {
	text, err := readText(filepath.Join(dir, l.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return content{}
	}
	if err != nil {
		return content{err: err.Error()}
	}
	n, err := l.Unit.Parse(text)
	if err != nil {
		return content{err: err.Error()}
	}
	return content{limited: true, rate: n}
}

// readText reads a small regular file. Anything else, such as a pipe that
// nobody writes, could hold the reader for ever.
func readText(path string) (text string, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("read %s: not a regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, fileBytesMax))
	if err != nil {
		return "", err
	}
	return string(b), nil
}
