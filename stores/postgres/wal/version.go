package wal

import (
	"fmt"
	"slices"
	"strings"
)

// Version is a major release of PostgreSQL: 15, 17, 18. Its log's pages begin with
// a number of their own (XLOG_PAGE_MAGIC), which changes whenever the log does.
type Version uint16

// releases maps page magics to releases. What this package relies on has been
// compared with pg_waldump for those that are supported.
var releases = []struct {
	magic     uint16
	version   Version
	supported bool
}{
	{0xD101, 12, false},
	{0xD106, 13, false},
	{0xD10D, 14, false},
	{0xD110, 15, true},
	{0xD113, 16, true},
	{0xD116, 17, true},
	{0xD118, 18, true},
}

// Versions returns the supported releases, oldest first.
func Versions() []Version {
	var out []Version
	for _, r := range releases {
		if r.supported {
			out = append(out, r.version)
		}
	}
	return out
}

// Validate reports a release that is not supported.
func (v Version) Validate() error {
	if slices.Contains(Versions(), v) {
		return nil
	}
	return fmt.Errorf("PostgreSQL %d: want %s", v, versionNames())
}

// Magic returns the number that pages of v begin with; 0 for a release that is
// not known.
func (v Version) Magic() uint16 {
	for _, r := range releases {
		if r.version == v {
			return r.magic
		}
	}
	return 0
}

// versionOf names the release of a magic; known is false for none of ours.
func versionOf(magic uint16) (v Version, supported, known bool) {
	for _, r := range releases {
		if r.magic == magic {
			return r.version, r.supported, true
		}
	}
	return 0, false, false
}

func versionNames() string {
	var names []string
	for _, v := range Versions() {
		names = append(names, fmt.Sprint(v))
	}
	return strings.Join(names, ", ")
}
