package agent

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket/place"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/rates"
	"github.com/tidegate/tidegate/shipper/drop"
)

// Config is the file of tidegate-agent.
type Config struct {
	Node config.Node `yaml:"node"`
	TLS  config.TLS  `yaml:"tls"`
	// Gates are the addresses of the gates' API, host:port, tried in turn.
	Gates []string `yaml:"gates"`
	// Listen is where /metrics and /status answer; a loopback address.
	Listen string `yaml:"listen"`
	// DataDir holds the quarantine and the lock that keeps a second agent out.
	DataDir string `yaml:"data_dir"`
	// RunDir holds the sockets, <run_dir>/agent/<service>.<stream>.sock.
	RunDir string `yaml:"run_dir"`
	// RatesDir holds the operator's files of rates; see package rates.
	RatesDir string         `yaml:"rates_dir"`
	Streams  []StreamConfig `yaml:"streams"`
	Limits   Limits         `yaml:"limits"`
	// Archive is the bucket that streams cross by when the live crossing is down; absent:
	// there is none. It is the standby nodes' own.
	Archive place.Config `yaml:"archive"`
	// Drop says when they do. Of an agent with an archive only.
	Drop DropConfig `yaml:"drop"`
}

// DropConfig says when a stream crosses by the archive, and how fast.
type DropConfig struct {
	// After is for how long no standby node has answered before the live crossing counts
	// as down.
	After time.Duration `yaml:"after"`
	// Slow is for how long something that was sent has not arrived before it counts as too
	// slow. Where both ways share a narrow link nothing is won by the other.
	Slow time.Duration `yaml:"slow"`
	// Back is for how long the live crossing must answer before streams go back to it.
	Back time.Duration `yaml:"back"`
	// Every is the least time between two objects of a direction, and between two looks
	// for the next one.
	Every time.Duration `yaml:"every"`
	// Off leaves the archive alone.
	Off bool `yaml:"off"`
}

// StreamConfig is one stream that this node may write.
type StreamConfig struct {
	Service tidegate.ServiceName `yaml:"service"`
	Stream  tidegate.StreamName  `yaml:"stream"`
	// Source is the store: journal or postgres.
	Source string `yaml:"source"`
	// JournalDir is the directory of the service's journal; of a journal only.
	JournalDir string `yaml:"journal_dir"`
	// Settings are the store's own, for every other one. The agent does not look
	// inside: whoever makes the source reads them.
	Settings config.Section `yaml:"settings"`
	// Endpoint is where the service answers its clients, host:port; used when
	// the library names none.
	Endpoint string `yaml:"endpoint"`
	// Codec is how batches are compressed before they are shipped and stored:
	// snappy, or none where the processors are the bottleneck and not the link.
	Codec string `yaml:"codec"`
	// NewGeneration is what happens when the source's log is gone that the other site
	// lacks: ask, that somebody has to declare a new generation, or auto, that the agent
	// does, where nothing that was shipped is left out by it. Not of a journal.
	NewGeneration string `yaml:"new_generation"`
}

// Policies of [StreamConfig.NewGeneration].
const (
	GenerationAsk  = "ask"
	GenerationAuto = "auto"
)

// Limits bounds what one agent uses.
type Limits struct {
	// BatchBytesMax is the most raw payload in one batch; a single larger
	// record still goes, alone.
	BatchBytesMax config.Bytes `yaml:"batch_bytes_max"`
	// RingBytesMax is the memory for sealed batches that W nodes have not stored yet,
	// per stream. When it is full capture stops and the source retains.
	RingBytesMax config.Bytes `yaml:"ring_bytes_max"`
	// MemoryMax is the soft limit given to the Go runtime; 0 for none.
	MemoryMax config.Bytes `yaml:"memory_max"`
	// ProofWait is how long a new writer waits for its own log to reach the
	// end that the standby nodes hold, before it reports diverged.
	ProofWait time.Duration `yaml:"proof_wait"`
}

// The stores, as StreamConfig.Source and the registry name them.
const (
	SourceJournal  = "journal"
	SourcePostgres = "postgres"
)

// Defaults. Where a number is large, the reason stands beside it.
const (
	DefaultListen  = "127.0.0.1:7413"
	DefaultDataDir = "/var/lib/tidegate/agent"
	DefaultRunDir  = "/run/tidegate"
	// DefaultBatchBytes amortises header, digest and system calls to below one
	// per cent while a batch still crosses a 1 Gbit/s link in 9 ms.
	DefaultBatchBytes config.Bytes = 1 << 20
	// DefaultRingBytes covers 200 MB/s for 160 ms of round trip and fsync.
	DefaultRingBytes config.Bytes = 32 << 20
	// DefaultMemory leaves the 100 MB of the agent's budget some room.
	DefaultMemory config.Bytes = 96 << 20
	// BatchBytesLimit keeps the largest sealed batch well below what one
	// message of a ship session may carry.
	BatchBytesLimit config.Bytes = 4 << 20
	// DefaultProofWait is many times what a replica of the primary cluster
	// needs to catch up with its leader.
	DefaultProofWait = 15 * time.Second
	// DefaultDropAfter is longer than a relay takes to restart, and than a router.
	DefaultDropAfter = 10 * time.Second
	// DefaultDropSlow lets half a full ring cross at 300 kB/s.
	DefaultDropSlow = time.Minute
	// DefaultDropBack keeps a link that comes and goes from taking the streams with it.
	DefaultDropBack = 5 * time.Second
)

// SetDefaults returns c with every unset key at its default.
func (c Config) SetDefaults() Config {
	setDefault(&c.Listen, DefaultListen)
	setDefault(&c.DataDir, DefaultDataDir)
	setDefault(&c.RunDir, DefaultRunDir)
	setDefault(&c.RatesDir, rates.DefaultDir)
	setDefault(&c.Limits.BatchBytesMax, DefaultBatchBytes)
	setDefault(&c.Limits.RingBytesMax, DefaultRingBytes)
	setDefault(&c.Limits.MemoryMax, max(DefaultMemory, c.live()+32<<20))
	setDefault(&c.Limits.ProofWait, DefaultProofWait)
	if !c.Archive.IsZero() {
		if strings.HasPrefix(c.Archive.URL, "s3://") {
			setDefault(&c.Archive.Driver, place.DriverMinIO)
		}
		setDefault(&c.Drop.After, DefaultDropAfter)
		setDefault(&c.Drop.Slow, DefaultDropSlow)
		setDefault(&c.Drop.Back, DefaultDropBack)
		setDefault(&c.Drop.Every, drop.EveryDefault)
	}
	streams := make([]StreamConfig, len(c.Streams))
	for i, s := range c.Streams {
		setDefault(&s.Source, SourceJournal)
		setDefault(&s.Codec, batch.CodecSnappy.String())
		setDefault(&s.NewGeneration, GenerationAsk)
		streams[i] = s
	}
	c.Streams = streams
	return c
}

// live is the memory that all streams take when their rings are full: beside them, while
// they cross by the archive, three pieces, of which one is put, one comes together and
// one is read.
func (c Config) live() config.Bytes {
	each := c.Limits.RingBytesMax
	if !c.Archive.IsZero() && !c.Drop.Off {
		each += 3 * drop.PieceMax
	}
	return config.Bytes(len(c.Streams)) * each
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Validate reports every broken rule.
func (c Config) Validate() error {
	all := []error{
		config.Under("node", c.Node.Validate()),
		config.Under("tls", c.TLS.Validate()),
		loopback("listen", c.Listen),
		config.AbsPath("data_dir", c.DataDir),
		config.AbsPath("run_dir", c.RunDir),
		config.AbsPath("rates_dir", c.RatesDir),
		config.Under("limits", c.Limits.Validate()),
		config.Under("archive", c.Archive.Validate()),
		config.Under("drop", c.Drop.validate(!c.Archive.IsZero())),
	}
	if !c.Archive.Encryption.KMS.IsZero() {
		all = append(all, config.Broken("archive.encryption.kms", "want none: what crosses by the archive is in TLS, and not encrypted once more", c.Archive.Encryption.KMS.Key))
	}
	if d := c.Archive.Driver; d == place.DriverS3 {
		all = append(all, config.Broken("archive.driver", "want minio: the agent carries no other, and it speaks with AWS, too, by archive.endpoint", d))
	}
	if len(c.Gates) == 0 {
		all = append(all, config.Broken("gates", "want at least one host:port", c.Gates))
	}
	for i, g := range c.Gates {
		all = append(all, config.Reachable(fmt.Sprintf("gates[%d]", i), g))
	}
	if len(c.Streams) == 0 {
		all = append(all, config.Broken("streams", "want at least one stream", c.Streams))
	}
	// Below what is live the collector would do nothing but collect.
	if m := c.Limits.MemoryMax; m != 0 && m < c.live()+16<<20 {
		all = append(all, config.Broken("limits.memory_max", fmt.Sprintf("want 0 for none, or at least ring_bytes_max for each stream, 12MiB more with an archive, and 16MiB, %s", c.live()+16<<20), m))
	}
	seen := map[string]int{}
	dirs := map[string]int{}
	for i, s := range c.Streams {
		path := fmt.Sprintf("streams[%d]", i)
		all = append(all, config.Under(path, s.Validate()))
		name := string(s.Service) + "/" + string(s.Stream)
		if j, ok := seen[name]; ok {
			all = append(all, config.Broken(path+".stream", fmt.Sprintf("want each stream once, streams[%d] is the same", j), s.Stream))
		}
		if j, ok := dirs[s.JournalDir]; ok && s.JournalDir != "" && s.Source != SourcePostgres {
			all = append(all, config.Broken(path+".journal_dir", fmt.Sprintf("want one journal for one stream, streams[%d] has it too", j), s.JournalDir))
		}
		seen[name], dirs[s.JournalDir] = i, i
	}
	return errors.Join(all...)
}

// validate reports every broken rule.
func (d DropConfig) validate(archive bool) error {
	if !archive {
		if d != (DropConfig{}) {
			return config.Broken("", "want none without an archive", "some")
		}
		return nil
	}
	return errors.Join(
		config.AtLeast("after", d.After, time.Second),
		config.AtLeast("slow", d.Slow, d.After),
		config.AtLeast("back", d.Back, time.Second),
		drop.Config{Every: d.Every}.SetDefaults().Validate(),
	)
}

// Validate reports every broken rule.
func (s StreamConfig) Validate() error {
	all := []error{
		config.Name("service", string(s.Service)),
		config.Name("stream", string(s.Stream)),
	}
	switch s.Source {
	case SourceJournal:
		all = append(all, config.AbsPath("journal_dir", s.JournalDir))
		if !s.Settings.IsZero() {
			all = append(all, config.Broken("settings", "want none with source journal", "some"))
		}
	case SourcePostgres:
		if s.Settings.IsZero() {
			all = append(all, config.Broken("settings", "want the store's own settings", "none"))
		}
		if s.JournalDir != "" {
			all = append(all, config.Broken("journal_dir", "want none but with source journal", s.JournalDir))
		}
	default:
		all = append(all, config.Broken("source", "want journal or postgres", s.Source))
		if s.JournalDir != "" {
			all = append(all, config.AbsPath("journal_dir", s.JournalDir))
		}
	}
	switch s.NewGeneration {
	case GenerationAsk:
	case GenerationAuto:
		if s.Source == SourceJournal {
			all = append(all, config.Broken("new_generation", "want ask with source journal, which has no bases", s.NewGeneration))
		}
	default:
		all = append(all, config.Broken("new_generation", "want ask or auto", s.NewGeneration))
	}
	if s.Endpoint != "" {
		all = append(all, config.HostPort("endpoint", s.Endpoint))
	}
	if _, err := batch.ParseCodec(s.Codec); err != nil {
		all = append(all, config.Broken("codec", "want snappy or none", s.Codec))
	}
	return errors.Join(all...)
}

// Validate reports every broken rule.
func (l Limits) Validate() error {
	all := []error{
		config.AtLeast("batch_bytes_max", l.BatchBytesMax, 4<<10),
		config.AtLeast("proof_wait", int64(l.ProofWait), 1),
	}
	if l.BatchBytesMax > BatchBytesLimit {
		all = append(all, config.Broken("batch_bytes_max", "want at most "+BatchBytesLimit.String(), l.BatchBytesMax))
	}
	// Two largest batches, so that one can be sealed while another is in flight.
	if least := 2 * config.Bytes(sealedMax(int(min(l.BatchBytesMax, BatchBytesLimit)))); l.RingBytesMax < least {
		all = append(all, config.Broken("ring_bytes_max", fmt.Sprintf("want at least two sealed batches, %s", least), l.RingBytesMax))
	}
	return errors.Join(all...)
}

// sealedMax is the most that a batch of n raw bytes can take once sealed.
func sealedMax(n int) int { return batch.NewSealer(batch.CodecSnappy).Room(n) }

// loopback refuses an address that other machines can reach: /status and
// /metrics are served without a certificate.
func loopback(path, addr string) error {
	if err := config.HostPort(path, addr); err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return config.Broken(path, "want a loopback address such as 127.0.0.1:7413", addr)
	}
	return nil
}
