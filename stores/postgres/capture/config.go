package capture

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores"
	"github.com/tidegate/tidegate/stores/postgres/names"
	"github.com/tidegate/tidegate/stores/postgres/replication"
)

// Kind is the store's name, in the configuration, the registry and the session.
const Kind = "postgres"

// Settings are the store's own section of a stream in the agent's file.
type Settings struct {
	// Conn is how to reach the server, as libpq takes it. The role needs REPLICATION.
	Conn string `yaml:"conn"`
	// Slot is the physical replication slot that keeps the log for us; it is made
	// when it is not there.
	Slot string `yaml:"slot"`
	// Name is what synchronous_standby_names calls us: the application_name.
	Name string `yaml:"name"`
	// Names is the driver by which the connector sets synchronous_standby_names: to
	// Name while the stream has bounds, to nothing while it is open or its record says
	// degraded. Without one that is the operator's, and an open or degraded stream
	// still holds back whoever asks for synchronous_commit on.
	Names names.Config `yaml:"names"`
	// SetNames is short for Names with the driver alter-system.
	SetNames bool `yaml:"set_names"`
	// WindowBytes is the memory for the newest log. A cursor that falls further
	// behind reads from the server once more.
	WindowBytes config.Bytes `yaml:"window_bytes"`
	// Replica says that the log is captured here also while the server follows its
	// primary. Commits cannot be made to wait by way of a replica: the stream must be
	// open. Without it a server that follows is only looked at, until it is promoted.
	Replica bool `yaml:"replica"`
	// StopWait is how long a server that shuts down may wait for what the other
	// site does not have. Then it is let go: what it has not shipped stays with it.
	StopWait time.Duration `yaml:"stop_wait"`
	// HotStandbyFeedback passes on to the server which old rows the reads on warm
	// servers still need, so that it does not clean them away. It costs the server
	// room for them while the reads go on.
	HotStandbyFeedback bool `yaml:"hot_standby_feedback"`
	// DropSlotBelow is the share of free room on the disk of pg_wal below which the
	// slot is dropped while it holds log that the other site does not take: the
	// server lives, and the stream needs a new generation. 0: it is watched only.
	DropSlotBelow Percent `yaml:"drop_slot_below"`
	// WALDisk is a directory on the disk of pg_wal that this process may look at; ""
	// is pg_wal itself, if the server is reached over a Unix socket.
	WALDisk string `yaml:"wal_disk"`
}

// Percent is a share in a file: "10%".
type Percent float64

// UnmarshalText implements [encoding.TextUnmarshaler].
func (p *Percent) UnmarshalText(text []byte) error {
	digits, found := strings.CutSuffix(string(text), "%")
	n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
	if !found && string(text) != "0" || err != nil || !(n >= 0 && n < 100) {
		return fmt.Errorf("want a share such as 10%% (got %q)", text)
	}
	*p = Percent(n)
	return nil
}

// MarshalText implements [encoding.TextMarshaler].
func (p Percent) MarshalText() ([]byte, error) {
	return []byte(strconv.FormatFloat(float64(p), 'f', -1, 64) + "%"), nil
}

// Defaults.
const (
	DefaultName = "tidegate"
	// DefaultWindow covers 100 MB/s for the time that a full ring takes to drain.
	DefaultWindow config.Bytes = 16 << 20
	// DefaultStopWait is below what service managers wait before they kill.
	DefaultStopWait = 30 * time.Second
	// windowMin holds the overlap, its anchors and the largest message.
	windowMin config.Bytes = 1 << 20
)

// nameLetters need no quotes in any of PostgreSQL's languages.
const nameLetters = "abcdefghijklmnopqrstuvwxyz0123456789_"

// SetDefaults returns s with every unset key at its default.
func (s Settings) SetDefaults() Settings {
	if s.Name == "" {
		s.Name = DefaultName
	}
	if s.WindowBytes == 0 {
		s.WindowBytes = DefaultWindow
	}
	if s.StopWait == 0 {
		s.StopWait = DefaultStopWait
	}
	s.Names = s.Names.SetDefaults()
	return s
}

// Validate reports every broken rule.
func (s Settings) Validate() error {
	all := []error{
		config.AtLeast("window_bytes", s.WindowBytes, windowMin),
		config.AtLeast("stop_wait", int64(s.StopWait), 1),
		config.Under("names", s.Names.Validate()),
	}
	if s.SetNames && !s.Names.IsZero() {
		all = append(all, config.Broken("set_names", "want set_names or names, not both", s.SetNames))
	}
	if s.Replica && (s.SetNames || !s.Names.IsZero()) {
		all = append(all, config.Broken("replica", "want no driver of names with it: commits do not wait by way of a replica, and the stream must be open", s.Replica))
	}
	if s.Conn == "" {
		all = append(all, config.Broken("conn", "want a connection string such as host=/run/postgresql user=tidegate", s.Conn))
	} else if err := s.server(DefaultName).Validate(); err != nil {
		all = append(all, config.Broken("conn", "want a connection string ("+err.Error()+")", "one that is not"))
	}
	if s.Slot == "" || len(s.Slot) > 63 || strings.Trim(s.Slot, nameLetters) != "" {
		all = append(all, config.Broken("slot", "want 1 to 63 of a-z, 0-9 and _", s.Slot))
	}
	if len(s.Name) > 48 || strings.Trim(s.Name, nameLetters) != "" { // servers cut at 63, and the reread's own name is longer
		all = append(all, config.Broken("name", "want 1 to 48 of a-z, 0-9 and _", s.Name))
	}
	if s.WALDisk != "" {
		all = append(all, config.AbsPath("wal_disk", s.WALDisk))
	}
	return errors.Join(all...)
}

// driver is the configuration of the driver of names, with SetNames spelt out.
func (s Settings) driver() names.Config {
	if s.SetNames {
		s.Names.Driver = names.AlterSystem
	}
	return s.Names
}

// server is how to reach it under a name.
func (s Settings) server(name string) replication.Config {
	return replication.Config{Conn: s.Conn, ApplicationName: name}
}

// Config is a connector's; Service, Stream, Socket, Clock and Log are required.
type Config struct {
	Settings

	Service  tidegate.ServiceName
	Stream   tidegate.StreamName
	Socket   string // of the agent, for this stream
	Endpoint string // host:port where clients reach the server; may be empty
	Clock    clock.Clock
	Log      *slog.Logger
	// ProgressEvery is how often the agent is told at least; 0 is 200 ms.
	ProgressEvery time.Duration
	GuardEvery    time.Duration // how often the server is surveyed; 0 is 10 s
	// FeedbackKept is how long what a warm server asked for holds when nothing more is
	// heard of it; 0 is a minute.
	FeedbackKept time.Duration
	// Memory is the file in which the connector notes that it gave the slot up, to know
	// of it when it is started again; "" notes nothing.
	Memory string
	FS     vfs.FS // of Memory; nil is the machine's
	// Free returns the room of the file system that a directory lies on; nil asks the
	// machine.
	Free func(dir string) (free, total uint64, err error)
}

// ErrGeneration says that the log which the other site lacks is gone from the
// server: only a new base, and the log from it on, can protect it again.
var ErrGeneration = errors.New("the server no longer has the log that the other site lacks: a new generation is needed")

// generation makes the finding.
func (c *Capture) generation(op, subject string, err error) error {
	return &tidegate.Error{
		Op: op, Subject: subject, Class: tidegate.Permanent,
		Hint: "begin a new generation beside the old: " + stores.AcceptGapCommand(c.cfg.Service, c.cfg.Stream) + "; until it is whole nothing new of the server is protected. max_slot_wal_keep_size bounds what a slot keeps",
		Err:  fmt.Errorf("%w: %w", ErrGeneration, err),
	}
}
