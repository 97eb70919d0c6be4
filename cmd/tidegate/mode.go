package main

import (
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/config"
)

// modeFlags are the gate's mode and bounds; without a default mode none is chosen.
func modeFlags(mode string) []ucli.Flag {
	return []ucli.Flag{
		&ucli.StringFlag{Name: "mode", Value: mode, Usage: "`MODE`, how strictly outputs are held back: open, bounded or sync"},
		&ucli.Int64Flag{Name: "records", Usage: "bounded: at most `K` records released but not durable", DefaultText: "unlimited"},
		&ucli.StringFlag{Name: "bytes", Usage: "bounded: at most `B` bytes of them, such as 16MiB", DefaultText: "unlimited"},
		&ucli.DurationFlag{Name: "window", Usage: "bounded: at most `T` of release time could be lost", DefaultText: "unlimited"},
	}
}

// modeChoice is modeFlags as they were given.
type modeChoice struct {
	Mode    string         `yaml:"mode"`
	Records *int64         `yaml:"records,omitempty"`
	Bytes   *config.Bytes  `yaml:"bytes,omitempty"`
	Window  *time.Duration `yaml:"window,omitempty"`
}

func modeChoiceOf(c *ucli.Context) (modeChoice, error) {
	m := modeChoice{Mode: c.String("mode")}
	if c.IsSet("records") {
		m.Records = new(c.Int64("records"))
	}
	if c.IsSet("bytes") {
		m.Bytes = new(config.Bytes)
		if err := m.Bytes.UnmarshalText([]byte(c.String("bytes"))); err != nil {
			return modeChoice{}, cli.Usagef("bytes: %w", err)
		}
	}
	if c.IsSet("window") {
		m.Window = new(c.Duration("window"))
	}
	_, _, err := m.message()
	return m, err
}

// message is the choice as the API has it; an error is one of usage.
func (m modeChoice) message() (pb.Mode, *pb.Bounds, error) {
	n, words, ok := enumValue(pb.Mode(0), m.Mode)
	if !ok {
		return 0, nil, cli.Usagef("mode %q: want one of %s", m.Mode, strings.Join(words, ", "))
	}
	mode, bounds := pb.Mode(n), m.bounds()
	bounded := bounds.Records != nil || bounds.Bytes != nil || bounds.Window != nil
	switch {
	case mode == pb.Mode_MODE_BOUNDED && !bounded:
		return 0, nil, cli.Usagef("mode bounded: want --records, --bytes or --window")
	case mode != pb.Mode_MODE_BOUNDED && bounded:
		return 0, nil, cli.Usagef("mode %s has no bounds: drop --records, --bytes and --window", m.Mode)
	case bounds.GetRecords() < 0 || bounds.GetWindow().AsDuration() < 0:
		return 0, nil, cli.Usagef("bounds: want none negative")
	}
	return mode, bounds, nil
}

func (m modeChoice) bounds() *pb.Bounds {
	b := &pb.Bounds{Records: m.Records}
	if m.Bytes != nil {
		b.Bytes = new(int64(*m.Bytes))
	}
	if m.Window != nil {
		b.Window = durationpb.New(*m.Window)
	}
	return b
}

// modeOf reads modeFlags; unspecified when there is neither a mode nor a default.
func modeOf(c *ucli.Context) (pb.Mode, *pb.Bounds, error) {
	if c.String("mode") == "" {
		if c.IsSet("records") || c.IsSet("bytes") || c.IsSet("window") {
			return 0, nil, cli.Usagef("bounds: want --mode bounded with them")
		}
		return 0, nil, nil
	}
	choice, err := modeChoiceOf(c)
	if err != nil {
		return 0, nil, err
	}
	return choice.message()
}
