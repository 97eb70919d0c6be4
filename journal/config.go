package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/clock"
)

// Config of a journal. Only Service and Stream have no default.
type Config struct {
	Service tidegate.ServiceName // consistency group the stream belongs to
	Stream  tidegate.StreamName  // unique in the service

	// ID names the history. Replicas of one history, such as the nodes of a
	// consensus cluster, give the same ID. Zero: drawn when the journal is
	// created. Ignored by nobody: a journal that has another ID is not opened.
	ID tidegate.ID

	// SegmentBytes is the size at which a new segment file begins; default 64 MiB.
	// Part of the bytes on disk: replicas give the same.
	SegmentBytes int64
	// GroupBytesMax bounds what waits for the disk; an append beyond it waits
	// for room. Default 4 MiB.
	GroupBytesMax int
	// RecordBytesMax bounds one record's payload; default 1 MiB, at most [PayloadMax].
	RecordBytesMax int

	AgentSocket   string        // of the agent on this node, <run_dir>/agent/<service>.<stream>.sock; empty: none
	StandbySocket string        // of the standby node's daemon on this node, <run_dir>/standby/<service>.<stream>.sock; empty: none
	Endpoint      string        // host:port where this service answers its clients
	ProgressEvery time.Duration // report at least so often; default 200 ms
	SyncEvery     time.Duration // while following, fsync at least so often; default 1 s

	Log   *slog.Logger // nil: silent
	Clock clock.Clock  // nil: the system's
}

// PayloadMax is the largest payload the format allows, in bytes.
const PayloadMax = 16 << 20

// SetDefaults fills what is zero.
func (c Config) SetDefaults() Config {
	setDefault(&c.SegmentBytes, 64<<20)
	setDefault(&c.GroupBytesMax, 4<<20)
	setDefault(&c.RecordBytesMax, 1<<20)
	setDefault(&c.ProgressEvery, 200*time.Millisecond)
	setDefault(&c.SyncEvery, time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = clock.System()
	}
	return c
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Validate reports every broken rule at once.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, key, rule string, got any) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s: %s (got %v)", key, rule, got))
		}
	}
	check(tidegate.ValidName(string(c.Service)) == nil, "service", "want a name", c.Service)
	check(tidegate.ValidName(string(c.Stream)) == nil, "stream", "want a name", c.Stream)
	check(c.RecordBytesMax > 0 && c.RecordBytesMax <= PayloadMax, "record_bytes_max", "want 1 to 16 MiB", c.RecordBytesMax)
	check(c.GroupBytesMax >= c.RecordBytesMax+HeaderSize, "group_bytes_max", "want room for the largest record", c.GroupBytesMax)
	check(c.SegmentBytes >= int64(c.RecordBytesMax+HeaderSize), "segment_bytes", "want room for the largest record", c.SegmentBytes)
	check(c.ProgressEvery > 0, "progress_every", "want a positive duration", c.ProgressEvery)
	check(c.SyncEvery > 0, "sync_every", "want a positive duration", c.SyncEvery)
	return errors.Join(errs...)
}
