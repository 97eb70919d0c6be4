package shipper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/snapshot"
)

// DialBase opens a session for a base; errors are those of [Dialer.Dial], and
// tidegate.ErrUnsupported when the node takes none. The session is run by a
// [BaseSender] or a [BaseReceiver], and ends by Close.
func (d Dialer) DialBase(ctx context.Context, addr string, a BaseAttach) (*Conn, BaseAttached, error) {
	if limit := d.Limits.SetDefaults().BatchBytesMax; limit < basePagesMax {
		return nil, BaseAttached{}, &tidegate.Error{
			Op: "ship base", Subject: a.Stream.String(), Class: tidegate.Misuse, Hint: "raise batch_bytes_max on both ends",
			Err: fmt.Errorf("an extent takes %d bytes, the session's limit is %d", basePagesMax, limit),
		}
	}
	needs := FeatureBase
	if a.Way == BasePick {
		needs = FeatureBasePick
	}
	d.Features = append(slices.Clone(d.Features), FeatureBase, FeatureBasePick)
	c, body, err := d.dial(ctx, addr, "base "+a.Way.String(), request{typeBaseAttach, a.append(nil), typeBaseAttached, needs})
	if err != nil {
		return nil, BaseAttached{}, err
	}
	c.as = asBase
	attached, err := parseBaseAttached(body)
	if err != nil {
		err = c.malformed(err)
		_ = c.close("") // the error says more
		return nil, BaseAttached{}, fmt.Errorf("attach to %s: %w", addr, err)
	}
	c.wg.Go(c.keepalive)
	return c, attached, nil
}

// PushConfig shapes a push. The zero value means the defaults.
type PushConfig struct {
	InFlight int             // see [snapshot.BuildConfig]
	Meter    *snapshot.Meter // may be nil; readable while the push runs
	// Wait holds back what crosses; nil: only the receiver's own rate does.
	Wait func(ctx context.Context, bytes int) error
}

// Pushed is what a push came to.
type Pushed struct {
	Node tidegate.NodeName // that holds the base now
	Held bool              // it had one of this generation before; nothing was taken
	Info snapshot.Info     // zero if Held
	Name snapshot.Name     // of the manifest; zero if Held
}

// PushBase takes a base by fill and puts it to the node at addr, page by page what
// that node does not have. It returns nil when the node holds it: whole, synced
// and read back. After an error a later push, of a base that is taken anew, sends
// only what has changed or had not arrived. What fill returns becomes part of the
// manifest; fill's errors are returned as they are. ctx ends it early.
func (d Dialer) PushBase(ctx context.Context, addr string, a BaseAttach, cfg PushConfig,
	fill func(ctx context.Context, w snapshot.Writer, total func(bytes int64)) (snapshot.Base, error),
) (p Pushed, err error) {
	a.Way = BasePush
	conn, attached, err := d.DialBase(ctx, addr, a)
	if err != nil {
		return p, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // Run reports it
	defer stop()
	p.Node, p.Held = attached.Node, attached.Held
	if attached.Held {
		return p, conn.Close()
	}
	if cfg.Meter == nil {
		cfg.Meter = &snapshot.Meter{}
	}
	info := snapshot.Info{Stream: a.Stream, Generation: a.Generation, Opened: attached.Opened}
	if info.Opened == 0 {
		info.Opened = a.Promise.Epoch // this writer is about to open it
	}
	s := NewBaseSender(conn)
	var sink snapshot.Sink = s
	if cfg.Wait != nil {
		sink = snapshot.HoldBack(s, cfg.Wait)
	}
	g, gctx := errgroup.WithContext(ctx)
	var over atomic.Bool // this end has nothing more to say
	var lost error       // why the session ended before that
	g.Go(func() error {
		err := s.Run()
		if !over.Load() {
			lost = err
		}
		return err
	})
	g.Go(func() error {
		p.Info, p.Name, err = s.push(gctx, sink, cfg, info, d, fill)
		over.Store(true)
		return errors.Join(err, conn.Close()) // Run ends by it
	})
	if _ = g.Wait(); err != nil && lost != nil {
		err = lost // what the push met is only what came of it
	}
	return p, err
}

// push takes the base, sends it and waits for the commit.
func (s *BaseSender) push(ctx context.Context, sink snapshot.Sink, cfg PushConfig, info snapshot.Info, d Dialer,
	fill func(ctx context.Context, w snapshot.Writer, total func(bytes int64)) (snapshot.Base, error),
) (snapshot.Info, snapshot.Name, error) {
	total := func(bytes int64) {
		cfg.Meter.SetTotal(bytes)
		_ = s.Total(bytes) // only for a display; a lost session is Run's to report
	}
	m, err := snapshot.Build(ctx, sink, snapshot.BuildConfig{InFlight: cfg.InFlight, Meter: cfg.Meter}, info,
		func(ctx context.Context, w snapshot.Writer) (snapshot.Base, error) { return fill(ctx, w, total) })
	if err != nil {
		return info, snapshot.Name{}, err
	}
	m.Taken = d.Clock.Wall().UnixNano()
	b, name, err := m.Encode()
	if err != nil {
		return info, name, err
	}
	return m.Info, name, s.Commit(ctx, b, name)
}
