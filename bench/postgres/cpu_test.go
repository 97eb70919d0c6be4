//go:build bench

package postgres

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// clockTick is what the kernel counts processor time in, in /proc: USER_HZ.
const clockTick = 0.01 // seconds

// processor is the processor time in seconds of processes, by what they are.
type processor map[string]float64

// processorOf returns what the processes of a PostgreSQL server have taken, by the
// kinds that its cluster's pid finds, and one more process.
func (r *rig) processorOf(postmaster int, kinds []string, more map[string]int) processor {
	r.t.Helper()
	out := processor{}
	for _, pid := range r.children(postmaster) {
		title, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue // it has ended
		}
		for _, kind := range kinds {
			if bytes.Contains(title, []byte(kind)) { // behind "postgres: " and the cluster's name, if it has one
				out[kind] += r.seconds(pid)
			}
		}
	}
	for name, pid := range more {
		out[name] += r.seconds(pid)
	}
	return out
}

// children are the processes that a process has started and that live.
func (r *rig) children(pid int) []int {
	r.t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil || len(files) == 0 {
		r.t.Fatalf("children of %d: %v", pid, err)
	}
	var all []int
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // a thread that has ended
		}
		for _, f := range strings.Fields(string(text)) {
			n, err := strconv.Atoi(f)
			if err != nil {
				r.t.Fatal(err)
			}
			all = append(all, n)
		}
	}
	return all
}

// seconds is the processor time of one process with all its threads; 0 when it has ended.
func (r *rig) seconds(pid int) float64 {
	r.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name, in parentheses, may hold anything; utime and stime are the 12th and 13th behind it.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	var ticks float64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseFloat(f, 64)
		if err != nil {
			r.t.Fatal(err)
		}
		ticks += n
	}
	return ticks * clockTick
}

// since returns what was taken since before, in milliseconds for a MB of mb.
func (p processor) since(before processor, mb float64) processor {
	out := processor{}
	for name, now := range p {
		out[name] = (now - before[name]) * 1000 / mb
	}
	return out
}

func (p processor) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(p)) {
		parts = append(parts, fmt.Sprintf("%s %.2f", name, p[name]))
	}
	return strings.Join(parts, ", ")
}
