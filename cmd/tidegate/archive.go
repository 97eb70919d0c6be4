package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"
	yaml "go.yaml.in/yaml/v3"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket/open"
	cold "github.com/tidegate/tidegate/archive/restore"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/snapshot"
	journalbase "github.com/tidegate/tidegate/stores/journal/base"
	pgrestore "github.com/tidegate/tidegate/stores/postgres/restore"
)

// archiveFlags are those of every command that reads an archive.
func archiveFlags(more ...ucli.Flag) []ucli.Flag {
	return append([]ucli.Flag{
		cli.OutputFlag(),
		&ucli.StringFlag{Name: "archive", Usage: "`FILE` with the archive's address: a block of its own, or the block archive of any role's file"},
		&ucli.StringFlag{Name: "url", Usage: "`URL` of the archive, as in file:///srv/archive or s3://bucket/prefix, where nothing more need be said"},
		&ucli.StringFlag{Name: "service", Usage: "`SERVICE`, or SERVICE/STREAM where it has several streams"},
	}, more...)
}

// openArchive opens the archive that the flags name.
func openArchive(c *ucli.Context) (*archive.Reader, error) {
	r, _, err := openBlock(c)
	return r, err
}

// openBlock is openArchive with what else the flags say of it.
func openBlock(c *ucli.Context) (*archive.Reader, readBlock, error) {
	block, err := archiveBlock(c)
	if err != nil {
		return nil, block, err
	}
	b, err := open.Open(c.Context, block.Config)
	if err != nil {
		return nil, block, err
	}
	r, err := archive.OpenReader(c.Context, b)
	return r, block, err
}

// archiveBlock is what the flags say of the archive.
func archiveBlock(c *ucli.Context) (block readBlock, err error) {
	file, url := c.String("archive"), c.String("url")
	switch {
	case file != "" && url != "":
		return block, cli.Usagef("an archive has one address: --archive or --url")
	case url != "":
		block.Config = open.Config{URL: url}.SetDefaults()
		if err := block.Validate(); err != nil {
			return block, cli.Usagef("--url: %w", err)
		}
		return block, nil
	case file == "":
		return block, cli.Usagef("which archive? --archive FILE or --url URL")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return block, &tidegate.Error{Op: "read", Subject: file, Class: tidegate.Misuse, Err: err}
	}
	// A role's file has much that this command does not know, and a block that it does.
	var role struct {
		Archive yaml.Node `yaml:"archive"`
	}
	if err := yaml.Unmarshal(text, &role); err == nil && !role.Archive.IsZero() {
		if text, err = yaml.Marshal(&role.Archive); err != nil {
			return block, err
		}
	}
	block, err = config.Parse[readBlock](file, text)
	if err == nil && block.IsZero() {
		err = cli.Usagef("%s names no archive", file)
	}
	return block, err
}

// readBlock is the block where it is only read: how it is written is not looked at, but
// what it keeps.
type readBlock archiveFile

// SetDefaults implements config.Defaulter.
func (b readBlock) SetDefaults() readBlock {
	b.Config = b.Config.SetDefaults()
	return b
}

// Validate reports every broken rule.
func (b readBlock) Validate() error {
	return errors.Join(b.Config.Validate(), config.Under("keep", b.Keep.Validate()))
}

// archivedStreams are the streams of the archive that --service names; all without it.
// faults are of streams of which nobody knows whose they are: they are said on stderr
// where others are named, because one may be of the same service.
func archivedStreams(c *ucli.Context, r *archive.Reader) (fit []archive.StreamInfo, faults []archive.StreamFault, err error) {
	all, faults, err := r.Streams(c.Context)
	if err != nil {
		return nil, nil, err
	}
	want := c.String("service")
	service, stream, one := strings.Cut(want, "/")
	for _, s := range all {
		if want == "" || string(s.Service) == service && (!one || string(s.Name) == stream) {
			fit = append(fit, s)
		}
	}
	if want == "" && len(fit)+len(faults) > 0 {
		return fit, faults, nil
	}
	for _, f := range faults {
		if _, err := fmt.Fprintf(c.App.ErrWriter, "damaged: %v\n", f.Err); err != nil {
			return nil, nil, err
		}
	}
	if len(fit) == 0 {
		what := want
		if what == "" {
			what = "a stream"
		}
		return nil, nil, &tidegate.Error{
			Op: "find", Subject: what, Class: tidegate.Permanent, Err: fmt.Errorf("not in %s: %w", r, tidegate.ErrNotFound),
			Hint: "`tidegate window` without --service lists what is archived",
		}
	}
	return fit, nil, nil
}

// archivedStream is the one stream that --service names.
func archivedStream(c *ucli.Context, r *archive.Reader) (*archive.Stream, storeKind, error) {
	fit, faults, err := archivedStreams(c, r)
	if err != nil {
		return nil, storeKind{}, err
	}
	if len(fit) == 0 {
		return nil, storeKind{}, faults[0].Err // there is no service that could be named
	}
	if len(fit)+len(faults) > 1 {
		names := make([]string, 0, len(fit))
		for _, s := range fit {
			names = append(names, streamLabel(s))
		}
		return nil, storeKind{}, cli.Usagef("which stream? --service is one of %s", strings.Join(names, ", "))
	}
	kind, err := kindOf(fit[0])
	if err != nil {
		return nil, kind, err
	}
	s, err := r.Open(c.Context, fit[0])
	return s, kind, err
}

func streamLabel(s archive.StreamInfo) string { return fmt.Sprintf("%s/%s", s.Service, s.Name) }

// storeKind is what the commands must know of a kind of store.
type storeKind struct {
	needsBase bool
	parse     func(string) (tidegate.Position, error)
	show      func(tidegate.Position) string
	check     func(*snapshot.Manifest) error // what a base must have beside whole extents
}

func kindOf(s archive.StreamInfo) (storeKind, error) {
	switch s.Store {
	case pgrestore.Kind:
		return storeKind{true, pgrestore.ParsePosition, pgrestore.ShowPosition, func(*snapshot.Manifest) error { return nil }}, nil
	case journalKind:
		return storeKind{false, tidegate.ParsePosition, tidegate.Position.String, checkState}, nil
	}
	return storeKind{}, &tidegate.Error{
		Op: "read archive of", Subject: streamLabel(s), Class: tidegate.Permanent,
		Err: fmt.Errorf("store of kind %q: %w", s.Store, tidegate.ErrUnsupported),
	}
}

// checkState reports why a base is none of a journal.
func checkState(m *snapshot.Manifest) error {
	_, _, err := journalbase.Parse(m.Base, m.Files)
	return err
}

// journalKind is the store's kind of an event-sourced service's journal.
const journalKind = "journal"

// parseTo reads a target: latest, a time, seq:N, or a position as the store writes it.
func (k storeKind) parseTo(s string, g uint) (to cold.To, err error) {
	if s == "" || s == "latest" {
		return to, nil
	}
	if n, is := strings.CutPrefix(s, "seq:"); is {
		seq, err := strconv.ParseUint(n, 10, 64)
		if err != nil || seq == 0 {
			return to, cli.Usagef("%q: want seq:N, with N from 1", s)
		}
		to.Seq = tidegate.Seq(seq)
		return to, nil
	}
	if p, err := k.parse(s); err == nil && p != 0 {
		to.Position, to.Generation = p, tidegate.Generation(g)
		return to, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999-07"} {
		if at, err := time.Parse(layout, s); err == nil {
			to.Time = at
			return to, nil
		}
	}
	return to, cli.Usagef("target %q: want latest, a time with its zone (2026-11-22T06:30:00Z), a position (%s) or seq:N", s, k.show(0x3000158))
}

// worst is the error that a list of what is bad in an archive ends with.
func worst(bad []error) error {
	if len(bad) == 0 {
		return nil
	}
	return &tidegate.Error{
		Op: "read archive", Class: tidegate.Corrupt, Err: fmt.Errorf("%d of its objects are not as they must be; the first: %w", len(bad), errors.Join(bad[0])),
		Hint: "another standby node's bases and log, or another copy of the bucket, may still be good",
	}
}
