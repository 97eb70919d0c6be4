package apply

import (
	"errors"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/stores/postgres/server"
)

// Settings are the store's own section of a warm service in the standby's file.
type Settings struct {
	// Home is the warm server's directory: data, sockets, log, and the connector's state.
	Home string `yaml:"home"`
	// Data is the data directory of the server that is the stream's source to begin
	// with, and runs beside this node without it. When the stream leaves it, it is
	// taken over and follows. Empty where the server is made from a base.
	Data string `yaml:"data"`
	// RewindFrom connects to the server at the other site, as libpq takes it, when
	// this one comes back with log that the stream went on without.
	RewindFrom string `yaml:"rewind_from"`
	// BinDir holds postgres of the primary's major version.
	BinDir string `yaml:"bin_dir"`
	// Account is the user that runs the server; empty is this process's, which must
	// not be root then.
	Account string `yaml:"account"`
	// Server are the programs that start and stop the server where a service manager
	// keeps it; empty: the node does both.
	Server ServerSettings `yaml:"server"`
	// Listen is listen_addresses; empty: Unix sockets only.
	Listen string `yaml:"listen"`
	Port   uint16 `yaml:"port"`
	// SocketDirs are directories for sockets beside the server's own.
	SocketDirs []string `yaml:"socket_dirs"`
	// HBA are lines of pg_hba.conf; none: those of the base.
	HBA []string `yaml:"hba"`
	// Parameters are the operator's for this server; they win over the primary's.
	Parameters map[string]string `yaml:"parameters"`
	// Feedback lets long reads here hold back cleaning up (hot_standby_feedback).
	Feedback bool `yaml:"feedback"`
	// StopTimeout bounds a fast stop before it becomes an immediate one.
	StopTimeout time.Duration `yaml:"stop_timeout"`
	// WindowBytes bounds the log in memory.
	WindowBytes config.Bytes `yaml:"window_bytes"`
}

// ServerSettings are [server.Service].
type ServerSettings struct {
	Start []string `yaml:"start"`
	Stop  []string `yaml:"stop"`
}

// SetDefaults returns s with every unset key at its default.
func (s Settings) SetDefaults() Settings {
	d := s.server().SetDefaults()
	s.Port, s.StopTimeout = d.Port, d.StopTimeout
	if s.WindowBytes == 0 {
		s.WindowBytes = windowBytesDefault
	}
	return s
}

// Validate reports every broken rule.
func (s Settings) Validate() error {
	all := []error{config.AtLeast("window_bytes", s.WindowBytes, 1<<20)}
	// Where it takes its log is not the file's to say.
	srv := s.server()
	srv.Upstream.SocketDir = "/run"
	if err := srv.SetDefaults().Validate(); err != nil {
		all = append(all, err)
	}
	return errors.Join(all...)
}

func (s Settings) server() server.Config {
	return server.Config{
		Home: s.Home, Data: s.Data, BinDir: s.BinDir, Listen: s.Listen, Port: s.Port, SocketDirs: s.SocketDirs, HBA: s.HBA,
		Settings: s.Parameters, Feedback: s.Feedback, StopTimeout: s.StopTimeout, Service: server.Service(s.Server),
	}
}

// Config makes a connector's configuration out of the file's; it looks the account up.
func (s Settings) Config(service tidegate.ServiceName, stream tidegate.StreamName, runDir, endpoint string) (Config, error) {
	c := Config{
		Service: service, Stream: stream, RunDir: runDir, Endpoint: endpoint, Server: s.server(), WindowBytes: int(s.WindowBytes), RewindFrom: s.RewindFrom,
	}
	if s.Account == "" {
		return c, nil
	}
	a, err := server.LookupAccount(s.Account)
	if err != nil {
		return c, err
	}
	c.Server.Account = &a
	return c, nil
}
