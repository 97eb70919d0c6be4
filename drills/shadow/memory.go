package shadow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/internal/procgroup"
	"github.com/tidegate/tidegate/stores/postgres/server"
)

// smallSettings are what a clone's server has in place of its base's, which are sized for
// a machine of its own: it runs beside the live standby's. The operator's win over them.
var smallSettings = map[string]string{
	"shared_buffers": "128MB", "wal_buffers": "-1", "huge_pages": "off", "work_mem": "4MB", "maintenance_work_mem": "64MB",
	"max_parallel_workers": "0", "autovacuum": "off",
}

// settings are those of the clone that can be chosen.
func (p *Postgres) settings() map[string]string {
	out := maps.Clone(smallSettings)
	for name, value := range p.Settings {
		if _, is := sealedSettings[name]; !is {
			out[name] = value
		}
	}
	return out
}

// bufferBytes is a value of shared_buffers in bytes; false: PostgreSQL does not take it,
// and says why.
func bufferBytes(value string) (uint64, bool) {
	m := buffersPattern.FindStringSubmatch(value)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseUint(m[1], 10, 64)
	unit := bufferUnits[m[2]]
	if err != nil || n > math.MaxUint64/unit {
		return math.MaxUint64, err == nil || errors.Is(err, strconv.ErrRange)
	}
	return n * unit, true
}

var (
	buffersPattern = regexp.MustCompile(`^\s*([0-9]+)\s*(B|kB|MB|GB|TB|)\s*$`)
	bufferUnits    = map[string]uint64{"B": 1, "": 8 << 10, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40} // without one: pages
)

// memoryFile says how much memory this machine can give.
const memoryFile = "/proc/meminfo"

var availablePattern = regexp.MustCompile(`(?m)^MemAvailable:\s+([0-9]+) kB$`)

// roomInMemory refuses a server that this machine has no memory for.
func roomInMemory(settings map[string]string) error {
	text, err := os.ReadFile(memoryFile)
	if err != nil {
		return err
	}
	return fits(settings["shared_buffers"], string(text))
}

func fits(buffers, meminfo string) error {
	need, known := bufferBytes(buffers)
	m := availablePattern.FindStringSubmatch(meminfo)
	if m == nil {
		return fmt.Errorf("%s has no MemAvailable", memoryFile)
	}
	free, err := strconv.ParseUint(m[1], 10, 54) // of KiB
	if err != nil {
		return fmt.Errorf("%s: %w", memoryFile, err)
	}
	if free <<= 10; !known || need <= free {
		return nil
	}
	return &tidegate.Error{
		Op: "start clone with", Subject: "shared_buffers " + buffers, Class: tidegate.Refused,
		Err:  fmt.Errorf("%d MiB of memory are available on this machine, and the live standby may run here too", free>>20),
		Hint: "a smaller postgres.settings.shared_buffers, or leave it out: " + smallSettings["shared_buffers"],
	}
}

// memoryOf says what a server was given, for it decides how fast it replays. unyielding is
// why it may not be the first to go when the machine runs out; nil: it is.
func memoryOf(ctx context.Context, srv *server.Server, unyielding error) (evidence.Check, error) {
	c := evidence.Check{
		Name: "server's memory", Kind: "isolation", Outcome: evidence.CheckPassed,
		Wanted: "it is the first to be ended (oom_score_adj 1000) when the machine has no more; what it was given is said",
	}
	var said []string
	for _, name := range slices.Sorted(maps.Keys(smallSettings)) {
		said = append(said, "current_setting('"+name+"')")
	}
	rows, err := query(ctx, srv, "select "+strings.Join(said, ", "))
	if err != nil {
		return c, err
	}
	for i, name := range slices.Sorted(maps.Keys(smallSettings)) {
		said[i] = name + " " + rows[0][i]
	}
	c.Got = new(strings.Join(said, ", "))
	if unyielding != nil {
		c.Outcome, c.Why = evidence.CheckUnknown, "whether it is the first to be ended: "+evidence.Sentence(unyielding)
	}
	return c, nil
}

// yield makes the processes of a sandbox the first that the kernel ends when memory runs
// out, so that it does not end the live standby's.
func (b *sandbox) yield() error {
	pids, err := procgroup.Find(inhabits(b.dir, b.mark))
	if err != nil {
		return err
	}
	var errs []error
	for _, pid := range pids {
		err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("1000"), 0)
		if !gone(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// gone reports whether a process's file could not be written because the process has ended.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
}
