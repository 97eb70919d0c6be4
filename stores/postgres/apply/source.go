package apply

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/wal"
	"github.com/tidegate/tidegate/stores/postgres/walsender"
)

// source is the connector as the walsender sees it: a [walsender.Log].
type source struct{ c *Connector }

var _ walsender.Log = (*source)(nil)

// Identity implements [walsender.Log].
func (s *source) Identity(context.Context) (walsender.Identity, error) {
	l, limit, known := s.c.window.history()
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if !known || s.c.control.System == 0 {
		return walsender.Identity{}, errUnknown
	}
	if limit == 0 {
		limit = s.c.seen.Replayed // nothing newer is known before the node speaks
	}
	return walsender.Identity{
		SystemID: l.System, Timeline: l.Timeline(), End: limit,
		SegmentSize: s.c.control.SegmentSize, ServerVersion: s.c.saved.Release,
	}, nil
}

// History implements [walsender.Log].
func (s *source) History(_ context.Context, t wal.Timeline) ([]byte, error) {
	l, _, known := s.c.window.history()
	if !known {
		return nil, errUnknown
	}
	until, ours := l.Until(t)
	if !ours || t == l.First {
		return nil, fmt.Errorf("history of timeline %s: %w", t, tidegate.ErrNotFound)
	}
	return until.History().Format(), nil
}

// Open implements [walsender.Log].
func (s *source) Open(_ context.Context, t wal.Timeline, from wal.LSN) (walsender.Reader, error) {
	r, err := s.c.window.open(t, from)
	if err != nil {
		return nil, err
	}
	s.c.deps.Log.Info("warm server asks for log", "timeline", uint32(t), "from", from.String())
	return r, nil
}

// release reads the major number of the data directory's server, for a base that
// does not say from which release it is.
func (c *Connector) release() (string, error) {
	f, err := c.deps.FS.Open(filepath.Join(c.server.DataDir(), "PG_VERSION"))
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	b := make([]byte, 16)
	n, _ := f.ReadAt(b, 0) // shorter than that, always
	return strings.TrimSpace(string(b[:n])), nil
}
