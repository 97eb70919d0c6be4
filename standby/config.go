package standby

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/rates"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/shipper/drop"
)

// Config is what a node is told by its operator.
type Config struct {
	Node       tidegate.NodeName
	Site       tidegate.SiteName
	DataDir    string         // formatted by Format
	RunDir     string         // of the local sockets; empty: no service is served beside this node
	RatesDir   string         // of the operator's rate files; default rates.DefaultDir
	ShipListen string         // host:port; default :7411
	APIListen  string         // host:port; default :7414
	ShipPublic string         // how others reach ShipListen; default: the listener's own address
	APIPublic  string         // how the gate reaches APIListen; default: the listener's own address
	Limits     shipper.Limits // of every ship session
	// SegmentBytes is the size of a delta log's segment. Default 64 MiB; see deltalog.Config.
	SegmentBytes int64
	// QuarantineBytesMax refuses an adopt that would have to cut when quarantine
	// holds more than this. Default 16 GiB: an operator looks before a disk fills.
	QuarantineBytesMax int64
	// FreeBytesMin refuses appends while the disk has less room. Default 64 MiB:
	// promises and quarantine must still fit when the logs do not. Log is kept for the
	// archive while there is room for tightTimes as much.
	FreeBytesMin uint64
	// Bases says when bases are renewed, for streams whose store has them.
	Bases BasePolicy
	// Archive says how streams are archived, where Deps has an archive.
	Archive archive.Policy
	// Drop says how often the archive is asked for what crosses by it, where Deps has a drop.
	Drop drop.Config
	// RejoinEvery is how often a node that missed an adopt asks for it. Default 1 s.
	RejoinEvery time.Duration
}

// The defaults.
const (
	ShipListenDefault         = ":7411"
	APIListenDefault          = ":7414"
	QuarantineBytesMaxDefault = 16 << 30
	FreeBytesMinDefault       = 64 << 20
	RejoinEveryDefault        = time.Second
)

// SetDefaults fills the fields that are zero.
func (c Config) SetDefaults() Config {
	if c.ShipListen == "" {
		c.ShipListen = ShipListenDefault
	}
	if c.APIListen == "" {
		c.APIListen = APIListenDefault
	}
	if c.RatesDir == "" {
		c.RatesDir = rates.DefaultDir
	}
	if c.QuarantineBytesMax == 0 {
		c.QuarantineBytesMax = QuarantineBytesMaxDefault
	}
	if c.FreeBytesMin == 0 {
		c.FreeBytesMin = FreeBytesMinDefault
	}
	if c.RejoinEvery == 0 {
		c.RejoinEvery = RejoinEveryDefault
	}
	c.Drop = c.Drop.SetDefaults()
	c.Bases, c.Limits, c.Archive = c.Bases.SetDefaults(), c.Limits.SetDefaults(), c.Archive.SetDefaults()
	return c
}

// Validate reports every rule that is broken.
func (c Config) Validate() error {
	var errs []error
	if err := tidegate.ValidName(string(c.Node)); err != nil {
		errs = append(errs, fmt.Errorf("node: %w", err))
	}
	if err := tidegate.ValidName(string(c.Site)); err != nil {
		errs = append(errs, fmt.Errorf("site: %w", err))
	}
	if c.DataDir == "" {
		errs = append(errs, errors.New("data_dir: want a directory (got nothing)"))
	}
	if c.SegmentBytes < 0 {
		errs = append(errs, fmt.Errorf("segment_bytes: want 0 for the default or more (got %d)", c.SegmentBytes))
	}
	if c.QuarantineBytesMax < 0 {
		errs = append(errs, fmt.Errorf("quarantine_bytes_max: want more than 0 (got %d)", c.QuarantineBytesMax))
	}
	if c.RejoinEvery < 0 {
		errs = append(errs, fmt.Errorf("rejoin_every: want more than 0 (got %s)", c.RejoinEvery))
	}
	if err := c.Bases.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("base: %w", err))
	}
	if err := c.Archive.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("archive: %w", err))
	}
	if err := c.Limits.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("limits: %w", err))
	}
	return errors.Join(errs...)
}

// Deps is what a node is given by the process it runs in. None but Archive and Drop is nil.
type Deps struct {
	FS        vfs.FS
	Clock     clock.Clock
	Log       *slog.Logger
	Registry  *prometheus.Registry // the process's own; served at /metrics
	Directory Directory
	ShipServe *tls.Config // for 7411: any role of the cluster; the session checks it
	ShipDial  *tls.Config // for sessions to other nodes: role standby
	APIServe  *tls.Config // for 7414: any role of the cluster; each call checks it
	// Archive opens the bucket of the archive, whose bytes go at a rate; nil: there is
	// none. It does not wait for a server: what that does must not keep a node from its work.
	Archive func(ctx context.Context, rate *rates.Limiter) (bucket.Bucket, error)
	// Drop opens the bucket by which sessions cross when no packet does, as Archive does;
	// nil: none cross by one.
	Drop func(ctx context.Context) (bucket.Bucket, error)
}

// Keys of log attributes.
const (
	keyStream = "stream"
	keyPeer   = "peer"
	keyEpoch  = "epoch"
	keySeq    = "seq"
	keyErr    = "err"
)
