package rates

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tidegate/tidegate/internal/config"
)

// Unit is what a limit counts each second.
type Unit string

// The units.
const (
	BytesPerSecond   Unit = "bytes/s"
	RecordsPerSecond Unit = "records/s"
)

// Limit is one file that a daemon obeys.
type Limit struct {
	Name    string // of the file
	Unit    Unit
	Daemon  string // that obeys it: agent or standby
	Meaning string // what it limits, for whoever lists the files
}

// The names of the files.
const (
	Ship    = "ship"
	Capture = "capture"
	Admit   = "admit"
	Receive = "receive"
	Copy    = "copy"
	Apply   = "apply"
	Archive = "archive"
)

// DefaultDir is where the files are unless a daemon's rates_dir says otherwise.
const DefaultDir = "/etc/tidegate/rates"

// The daemons that obey files.
const (
	DaemonAgent   = "agent"
	DaemonStandby = "standby"
)

// All lists every file that any daemon obeys. The directory is one for all
// daemons of a machine, so whatever else lies in it is a mistake of spelling.
func All() []Limit {
	return []Limit{
		{Ship, BytesPerSecond, DaemonAgent, "sealed bytes handed to the relay, all streams together"},
		{Capture, BytesPerSecond, DaemonAgent, "bytes read from the sources and sealed, all streams together"},
		{Admit, RecordsPerSecond, DaemonAgent, "new records that each stream's service may take on"},
		{Receive, BytesPerSecond, DaemonStandby, "sealed bytes taken in from writers and relays"},
		{Copy, BytesPerSecond, DaemonStandby, "bytes copied from another node's log, and of bases, whoever sends them, or read for one that is renewed here, and what is read and written to free room in their store"},
		{Apply, BytesPerSecond, DaemonStandby, "bytes given to the services that follow"},
		{Archive, BytesPerSecond, DaemonStandby, "bytes put into the archive and read from it"},
	}
}

// For returns the files that one daemon obeys.
func For(daemon string) []Limit {
	var list []Limit
	for _, l := range All() {
		if l.Daemon == daemon {
			list = append(list, l)
		}
	}
	return list
}

// Parse reads what a file may hold: a whole number, or for bytes also a size
// such as 512KiB or 50MiB, with blanks around it.
func (u Unit) Parse(text string) (perSecond int64, err error) {
	text = strings.TrimSpace(text)
	if u == BytesPerSecond {
		var b config.Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil {
			return 0, fmt.Errorf("want bytes each second such as 0 (stop), 4096 or 50MiB (got %q)", clip(text))
		}
		return int64(b), nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("want a whole number of %s, 0 to stop (got %q)", u, clip(text))
	}
	return n, nil
}

// Text says a limit as people read it; limited is false when there is none.
func (u Unit) Text(perSecond int64, limited bool) string {
	switch {
	case !limited:
		return "no limit"
	case perSecond == 0:
		return "0 " + string(u) + " (stopped)"
	}
	if u == BytesPerSecond {
		if s := config.Bytes(perSecond).String(); s != strconv.FormatInt(perSecond, 10) {
			return s + "/s"
		}
	}
	return strconv.FormatInt(perSecond, 10) + " " + string(u)
}

// clip keeps a message short, whatever lies in a file.
func clip(s string) string {
	const most = 32
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
