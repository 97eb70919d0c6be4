package assert

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidegate/tidegate/internal/config"
)

// Metric is what an assertion speaks of. What several streams have is the worst of them.
type Metric string

// The metrics.
const (
	ExposureAge   Metric = "exposure_age"   // of the oldest acknowledged work that a failover would lose
	BlindWindow   Metric = "blind_window"   // how much of the source the standby site may not know of
	RecordsBehind Metric = "records_behind" // not applied by the standby's service
	BytesBehind   Metric = "bytes_behind"   // the same
	DurableNodes  Metric = "durable_nodes"  // standby nodes that are caught up and count
)

// unit is what a metric counts.
type unit int

const (
	spans  unit = iota // in nanoseconds
	counts             // things
	sizes              // bytes
)

var units = map[Metric]unit{
	ExposureAge: spans, BlindWindow: spans, RecordsBehind: counts, BytesBehind: sizes, DurableNodes: counts,
}

// Values is one look: nanoseconds, things or bytes. What is not in it is unknown.
type Values map[Metric]int64

// parse reads a value, which is 0 or more.
func (u unit) parse(text string) (n int64, err error) {
	var want string
	switch u {
	case spans:
		want = "a time such as 2s or 1m30s"
		var d time.Duration
		d, err = time.ParseDuration(text)
		n = int64(d)
	case sizes:
		want = "a size such as 64KiB"
		var b config.Bytes
		err = b.UnmarshalText([]byte(text))
		n = int64(b)
	default:
		want = "a number"
		n, err = strconv.ParseInt(text, 10, 64)
	}
	if err != nil || n < 0 {
		return 0, fmt.Errorf("want %s (got %q)", want, text)
	}
	return n, nil
}

func (u unit) format(n int64) string {
	switch u {
	case spans:
		return span(time.Duration(n))
	case sizes:
		return config.Bytes(n).String()
	}
	return strconv.FormatInt(n, 10)
}

// span is a time without what is 0 of it: 1m, not 1m0s.
func span(d time.Duration) string {
	text := d.String()
	if short, is := strings.CutSuffix(text, "m0s"); is {
		text = short + "m"
	}
	if short, is := strings.CutSuffix(text, "h0m"); is {
		text = short + "h"
	}
	return text
}

// names lists metrics for messages.
func names(of []Metric) string {
	var all []string
	for _, m := range of {
		all = append(all, string(m))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
