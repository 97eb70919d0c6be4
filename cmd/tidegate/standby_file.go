package main

import (
	"errors"
	"time"

	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket/open"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/shipper/drop"
	"github.com/tidegate/tidegate/standby"
)

// standbyFile is the file of `tidegate standby`.
type standbyFile struct {
	Node    config.Node `yaml:"node"`
	TLS     config.TLS  `yaml:"tls"`
	Gates   []string    `yaml:"gates"`     // host:port of the gates' API, tried in turn
	DataDir string      `yaml:"data_dir"`  // formatted by `tidegate standby format`
	RunDir  string      `yaml:"run_dir"`   // of the local sockets; "-": no service beside this node
	Rates   string      `yaml:"rates_dir"` // of the operator's files of rates
	Ship    listenFile  `yaml:"ship"`
	API     listenFile  `yaml:"api"`
	Limits  struct {
		SegmentBytes       config.Bytes `yaml:"segment_bytes"`        // of a delta log's files
		QuarantineBytesMax config.Bytes `yaml:"quarantine_bytes_max"` // beyond it a node refuses to cut
		FreeBytesMin       config.Bytes `yaml:"free_bytes_min"`       // below it a node refuses to append
	} `yaml:"limits"`
	Base    baseFile    `yaml:"base"`    // of the streams whose stores have bases
	Archive archiveFile `yaml:"archive"` // a third copy, in a bucket
	Drop    dropFile    `yaml:"drop"`    // of a node with an archive: agents cross by it when nothing crosses live
	Warm    []warmFile  `yaml:"warm"`    // services that the node keeps warm itself
}

// dropFile says how often the archive is asked for what crosses by it.
type dropFile struct {
	Every time.Duration `yaml:"every"` // least time between two objects of a direction, and between two looks for the next one
	Look  time.Duration `yaml:"look"`  // between two looks for new sessions, while a stream lacks its writer
	Off   bool          `yaml:"off"`   // the archive is for archiving only
}

func (d dropFile) validate(archive bool) error {
	if !archive {
		if d != (dropFile{}) {
			return config.Broken("", "want none without an archive", "some")
		}
		return nil
	}
	return drop.Config{Every: d.Every, Look: d.Look}.Validate()
}

// baseFile says when bases are renewed.
type baseFile struct {
	Refresh struct {
		Every time.Duration `yaml:"every"` // age at which the newest is renewed; 0: age is no reason
		Log   config.Bytes  `yaml:"log"`   // bytes of the source's log behind the newest, at which it is renewed
		Off   bool          `yaml:"off"`   // only by `tidegate standby base refresh`
	} `yaml:"refresh"`
	Keep int `yaml:"keep"` // bases that stay of use: those before them may go, and the log behind the oldest of them
	Trim struct {
		Extra config.Bytes  `yaml:"extra"` // of the log, always kept
		Wait  time.Duration `yaml:"wait"`  // for how long log is kept for a node that lacks it
		Off   bool          `yaml:"off"`
	} `yaml:"trim"`
}

func (b baseFile) validate() error {
	err := errors.Join(
		config.AtLeast("refresh.log", b.Refresh.Log, 1),
		config.AtLeast("keep", b.Keep, 1),
		config.AtLeast("trim.extra", b.Trim.Extra, 1),
	)
	if b.Trim.Wait <= 0 {
		err = errors.Join(err, config.Broken("trim.wait", "want more than 0", b.Trim.Wait))
	}
	if b.Refresh.Every < 0 {
		err = errors.Join(err, config.Broken("refresh.every", "want 0 or more", b.Refresh.Every))
	}
	return err
}

func (b baseFile) policy() standby.BasePolicy {
	return standby.BasePolicy{
		RefreshEvery: b.Refresh.Every, RefreshLog: int64(b.Refresh.Log), RefreshOff: b.Refresh.Off,
		Keep: b.Keep, TrimExtra: int64(b.Trim.Extra), TrimWait: b.Trim.Wait, TrimOff: b.Trim.Off,
	}
}

// archiveFile is the block of every file that uses an archive, and how it is written.
type archiveFile struct {
	open.Config `yaml:",inline"`

	Segment config.Bytes  `yaml:"segment"` // bytes of batches that go up together
	Every   time.Duration `yaml:"every"`   // for how long a committed batch waits for others

	Keep archive.Retention `yaml:"keep"` // what stays; unset: everything
}

func (a archiveFile) validate() error {
	if a == (archiveFile{}) {
		return nil
	}
	err := a.Config.Validate()
	if a.IsZero() {
		err = config.Broken("url", "want file:///directory or s3://bucket/prefix", "")
	}
	err = errors.Join(err, config.AtLeast("segment", a.Segment, archive.SegmentMin))
	if a.Segment > archive.SegmentMax {
		err = errors.Join(err, config.Broken("segment", "want at most "+config.Bytes(archive.SegmentMax).String(), a.Segment))
	}
	if a.Every <= 0 {
		err = errors.Join(err, config.Broken("every", "want more than 0", a.Every))
	}
	return errors.Join(err, config.Under("keep", a.Keep.Validate()))
}

func (a archiveFile) policy() archive.Policy {
	return archive.Policy{Segment: int64(a.Segment), Every: a.Every, Keep: a.Keep}
}

// listenFile is one listener.
type listenFile struct {
	Listen string `yaml:"listen"` // host:port; an empty host is every address
	Public string `yaml:"public"` // host:port under which others reach it
}

// Defaults of the standby's file; those of the limits are the package's own.
const (
	defaultStandbyDir = "/var/lib/tidegate/standby"
	defaultRunDir     = "/run/tidegate"
	noRunDir          = "-"
)

// SetDefaults returns f with every unset key at its default.
func (f standbyFile) SetDefaults() standbyFile {
	if f.DataDir == "" {
		f.DataDir = defaultStandbyDir
	}
	if f.RunDir == "" {
		f.RunDir = defaultRunDir
	}
	d := f.config().SetDefaults()
	f.Ship.Listen, f.API.Listen = d.ShipListen, d.APIListen
	f.Rates = d.RatesDir
	f.Limits.QuarantineBytesMax = config.Bytes(d.QuarantineBytesMax)
	f.Base.Refresh.Log = config.Bytes(d.Bases.RefreshLog)
	f.Base.Keep, f.Base.Trim.Extra, f.Base.Trim.Wait = d.Bases.Keep, config.Bytes(d.Bases.TrimExtra), d.Bases.TrimWait
	if f.Archive != (archiveFile{}) {
		f.Archive.Config = f.Archive.SetDefaults()
		f.Archive.Segment, f.Archive.Every = config.Bytes(d.Archive.Segment), d.Archive.Every
		f.Drop.Every, f.Drop.Look = d.Drop.Every, d.Drop.Look
	}
	f.Limits.FreeBytesMin = config.Bytes(d.FreeBytesMin) //nolint:gosec // came from a Bytes
	return f
}

// Validate reports every broken rule.
func (f standbyFile) Validate() error {
	all := []error{
		config.Under("node", f.Node.Validate()),
		config.Under("tls", f.TLS.Validate()),
		gatesRule(f.Gates),
		config.AbsPath("data_dir", f.DataDir),
		config.AbsPath("rates_dir", f.Rates),
		config.Under("ship", f.Ship.validate()),
		config.Under("api", f.API.validate()),
		config.AtLeast("limits.segment_bytes", f.Limits.SegmentBytes, 0),
		config.AtLeast("limits.quarantine_bytes_max", f.Limits.QuarantineBytesMax, 1<<20),
		config.AtLeast("limits.free_bytes_min", f.Limits.FreeBytesMin, 1<<20),
	}
	all = append(all, config.Under("base", f.Base.validate()), config.Under("archive", f.Archive.validate()),
		config.Under("drop", f.Drop.validate(f.Archive != (archiveFile{}))), validateWarm(f.Warm, f.RunDir))
	if f.RunDir != noRunDir {
		all = append(all, config.AbsPath("run_dir", f.RunDir))
	}
	return errors.Join(all...)
}

func (l listenFile) validate() error {
	err := config.HostPort("listen", l.Listen)
	// Others cannot dial "every address": it must be said how they reach this node.
	return errors.Join(err, config.Reachable("public", l.Public))
}

// config is the file as the package wants it.
func (f standbyFile) config() standby.Config {
	run := f.RunDir
	if run == noRunDir {
		run = ""
	}
	return standby.Config{
		Node: f.Node.Name, Site: f.Node.Site, DataDir: f.DataDir, RunDir: run, RatesDir: f.Rates,
		ShipListen: f.Ship.Listen, ShipPublic: f.Ship.Public, APIListen: f.API.Listen, APIPublic: f.API.Public,
		Bases:        f.Base.policy(),
		Archive:      f.Archive.policy(),
		Drop:         drop.Config{Every: f.Drop.Every, Look: f.Drop.Look},
		SegmentBytes: int64(f.Limits.SegmentBytes), QuarantineBytesMax: int64(f.Limits.QuarantineBytesMax),
		FreeBytesMin: uint64(max(f.Limits.FreeBytesMin, 0)),
	}
}
