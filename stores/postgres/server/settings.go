package server

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// setting is one line of a configuration.
type setting struct{ name, value string }

// plainPath is a directory that needs no quotes in a list of directories.
var plainPath = regexp.MustCompile(`^[A-Za-z0-9_./-]+$`)

// places are the settings that say where the server is and how it speaks with
// this package, whatever it is started for.
func (c Config) places(home string) []setting {
	dirs := append([]string{home + "/" + runDir}, c.SocketDirs...)
	for i, dir := range dirs {
		if !plainPath.MatchString(dir) {
			dirs[i] = `"` + dir + `"` // else not, for Debian's pg_ctlcluster takes the quotes for a part of it
		}
	}
	out := []setting{
		{"port", strconv.Itoa(int(c.Port))},
		{"listen_addresses", c.Listen},
		{"unix_socket_directories", strings.Join(dirs, ", ")},
		// The primary's group may not be here.
		{"unix_socket_group", ""},
		{"cluster_name", c.Name},
	}
	if c.managed() {
		return out // it logs where its manager has it log; nobody here reads that
	}
	return append(out, []setting{
		// Findings are told from messages: all of them in one place, in one language.
		{"log_destination", "stderr"},
		{"logging_collector", "off"},
		{"log_line_prefix", "%m [%p] "},
		{"log_min_messages", "warning"},
		{"lc_messages", "C"},
	}...)
}

// following are the settings that make a restored server safe, as a follower and
// as the primary that it may become at any moment. That they are written before
// the first start is what makes promotion quick. Those that a release does not
// know are left out.
func (c Config) following(release int, control Control) []setting {
	out := []setting{
		{"primary_conninfo", c.conninfo()},
		// A slot of the primary's is none of the upstream's.
		{"primary_slot_name", ""},
		{"wal_receiver_create_temp_slot", "off"},
		{"wal_retrieve_retry_interval", "500ms"},
		{"wal_receiver_status_interval", "1s"},
		{"hot_standby", "on"},
		{"hot_standby_feedback", onOff(c.Feedback)},
		// The upstream is the one source of log; the primary's commands would fetch
		// from its archive, past what the standby node has been granted.
		{"restore_command", ""},
		{"archive_cleanup_command", ""},
		{"recovery_end_command", ""},
		{"recovery_min_apply_delay", "0"},
		{"recovery_target", ""},
		{"recovery_target_lsn", ""},
		{"recovery_target_name", ""},
		{"recovery_target_time", ""},
		{"recovery_target_xid", ""},
		{"recovery_target_timeline", "latest"},
		// With the primary's name in here a promoted server would wait for ever with
		// its first commit.
		{"synchronous_standby_names", ""},
		// Two servers must not write into one archive.
		{"archive_mode", "off"},
		{"archive_command", ""},
		{"track_commit_timestamp", onOff(control.CommitTimes)},
		{"wal_level", max2(control.WALLevel, "replica")},
	}
	if !control.Checksums {
		// pg_rewind needs one of the two, from before the promotion on.
		out = append(out, setting{"wal_log_hints", "on"})
	}
	if release >= 15 {
		out = append(out, setting{"archive_library", ""})
	}
	if release < 16 {
		out = append(out, setting{"promote_trigger_file", ""})
	}
	if release >= 17 {
		out = append(out, setting{"sync_replication_slots", "off"}, setting{"synchronized_standby_slots", ""})
	}
	return append(out, c.sizes(control.Required)...)
}

// max2 returns the level, but not one under the floor.
func max2(level, floor string) string {
	if level == "minimal" {
		return floor
	}
	return level
}

// walSendersMin leaves room for the node's own agent, a backup and a few
// followers once the server is promoted.
const walSendersMin = 10

// sizes are the primary's, or the operator's where those are larger: recovery
// ends with FATAL, or stands still, when one is smaller.
func (c Config) sizes(required Sizes) []setting {
	atLeast := func(name string, n int) setting {
		if own, err := strconv.Atoi(c.Settings[name]); err == nil {
			n = max(n, own)
		}
		return setting{name, strconv.Itoa(n)}
	}
	return []setting{
		atLeast("max_connections", required.MaxConnections),
		atLeast("max_worker_processes", required.MaxWorkerProcesses),
		atLeast("max_wal_senders", max(required.MaxWALSenders, walSendersMin)),
		atLeast("max_prepared_transactions", required.MaxPreparedTransactions),
		atLeast("max_locks_per_transaction", required.MaxLocksPerTransaction),
	}
}

// conninfo names the upstream in libpq's form.
func (c Config) conninfo() string {
	quote := func(s string) string { return "'" + quoteConninfo(s) + "'" }
	return fmt.Sprintf("host=%s port=%d user=tidegate dbname=replication application_name=%s sslmode=disable gssencmode=disable connect_timeout=5",
		quote(c.Upstream.SocketDir), c.Upstream.Port, quote(c.Name))
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// commandLine are the settings that cannot be, or must not be, in a file that the
// base brought along.
func (s *Server) commandLine() []string {
	data := s.DataDir()
	args := []string{"-D", data}
	for _, one := range []setting{
		{"data_directory", data},
		{"config_file", s.inData(configFile)},
		{"hba_file", s.inData(hbaFile)},
		{"ident_file", s.inData(identFile)},
		{"external_pid_file", ""},
	} {
		args = append(args, "-c", one.name+"="+one.value)
	}
	for _, name := range slices.Sorted(maps.Keys(s.cfg.Final)) {
		args = append(args, "-c", name+"="+s.cfg.Final[name])
	}
	return args
}

// reserved are the names of settings that are this package's alone.
func reserved() map[string]bool {
	names := map[string]bool{
		"data_directory": true, "config_file": true, "hba_file": true, "ident_file": true,
		"external_pid_file": true, "promote_trigger_file": true, "archive_library": true,
		"sync_replication_slots": true, "synchronized_standby_slots": true, "wal_log_hints": true,
	}
	var c Config
	for _, one := range append(c.places(""), c.following(0, Control{})...) {
		names[one.name] = true
	}
	for _, one := range c.sizes(Sizes{}) {
		delete(names, one.name)
	}
	return names
}

// operator are the operator's settings, sorted; sizes are dealt with apart.
func (c Config) operator() []setting {
	var out []setting
	for _, name := range slices.Sorted(maps.Keys(c.Settings)) {
		out = append(out, setting{name, c.Settings[name]})
	}
	return out
}

// carried chooses which of a primary's settings a built configuration takes over:
// not what is this package's, and not what names files and directories of another
// machine.
func carried(primary map[string]string) []setting {
	own := reserved()
	foreign := []string{"_directory", "_directories", "_file", "_command", "_dir", "_path"}
	var out []setting
	for _, name := range slices.Sorted(maps.Keys(primary)) {
		isForeign := slices.ContainsFunc(foreign, func(end string) bool { return strings.HasSuffix(name, end) })
		if own[name] || isForeign || strings.HasPrefix(name, "ssl") || !settingPattern.MatchString(name) ||
			strings.ContainsAny(primary[name], "\n\r\x00") {
			continue
		}
		out = append(out, setting{name, primary[name]})
	}
	return out
}

// formatSettings writes lines of a configuration file.
func formatSettings(settings []setting) []byte {
	escape := strings.NewReplacer(`\`, `\\`, `'`, `''`)
	var b []byte
	for _, one := range settings {
		b = fmt.Appendf(b, "%s = '%s'\n", one.name, escape.Replace(one.value))
	}
	return b
}

// overlay returns a postgresql.auto.conf in which settings replace lines of the
// same name; a later one replaces an earlier one. The file is PostgreSQL's own:
// ALTER SYSTEM rewrites it and keeps what it finds.
func overlay(text []byte, settings []setting) []byte {
	last := map[string]int{}
	for i, one := range settings {
		last[one.name] = i
	}
	var b []byte
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\r\n")
		if _, ours := last[settingName(line)]; !ours && line != "" {
			b = append(append(b, line...), '\n')
		}
	}
	if len(b) == 0 {
		b = []byte("# Do not edit this file manually!\n# It will be overwritten by the ALTER SYSTEM command.\n")
	}
	var kept []setting
	for i, one := range settings {
		if last[one.name] == i {
			kept = append(kept, one)
		}
	}
	return append(b, formatSettings(kept)...)
}

// settingName returns the name that a line sets, in lower case; "" for a comment.
func settingName(line string) string {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return ""
	}
	name, _, _ := strings.Cut(line, "=")
	name, _, _ = strings.Cut(strings.TrimSpace(name), " ")
	name, _, _ = strings.Cut(name, "\t")
	return strings.ToLower(name)
}
