package capture

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/stores/postgres/replication"
)

// The names of the findings. docs/operating/postgresql.md has the table.
const (
	foundUnseen     = "unseen"
	foundWALLevel   = "wal-level"
	foundFsync      = "fsync-off"
	foundTornPages  = "full-page-writes-off"
	foundChecksums  = "checksums-off"
	foundUnwaiting  = "unwaiting-commits"
	foundCancelled  = "cancelled-waits"
	foundUnlogged   = "unlogged-tables"
	foundArchive    = "archive-failing"
	foundSlotGone   = "slot-missing"
	foundSlotLost   = "slot-lost"
	foundSlotHolds  = "slot-holds"
	foundSlotLimit  = "slot-limit"
	foundSlotIdle   = "slot-idle"
	foundUnbounded  = "slot-unbounded"
	foundOtherSlot  = "other-slot"
	foundDisk       = "wal-disk"
	foundDiskUnseen = "wal-disk-unseen"
	foundKeep       = "wal-keep"
	foundLeaving    = "leaving"
	foundOldRows    = "old-rows"
)

// From which a finding is made.
const (
	diskLow      = 0.10 // share of the disk that is free
	diskVeryLow  = 0.05
	fullSoon     = 24 * time.Hour
	fullNow      = time.Hour
	outageMin    = time.Hour // how long an outage the slot should outlive at least
	namesMax     = 3         // of what there are many, in a text
	otherHeldMin = 1 << 30   // bytes of log

	// Transactions since the oldest one whose rows are kept for reads at the other
	// site: hours of a busy server, and what autovacuum_freeze_max_age is twice of.
	rowsOld     = 10_000_000
	rowsVeryOld = 100_000_000
)

// disk is the file system that pg_wal lies on.
type disk struct {
	free, total uint64
	err         error // why it is not known
}

func (d disk) share() float64 { return float64(d.free) / float64(max(d.total, 1)) }

// facts are what a round of the guard has seen.
type facts struct {
	survey replication.Survey
	disk   disk
	// rate is how fast the server writes log, and grows how fast what the slot holds
	// grows, in bytes per second; -1 while not known.
	rate, grows float64
	promises    bool // the stream has bounds that commits wait for
	gaveUp      bool // the slot was dropped by us
	reserves    bool // a server that follows is to keep log by our slot
	unlogged    []string
	unloggedErr []string
	settings    Settings
	anew        string // the command that declares a new generation
}

// judge makes the findings of a round. Pure.
func judge(f *facts) []local.Finding {
	var j jury
	j.server(f)
	keepsNone := f.survey.Settings["wal_keep_size"] == "0"
	if f.survey.InRecovery {
		if f.reserves || f.gaveUp {
			j.spare(f)
		} else if keepsNone {
			j.info(foundKeep, "let it keep some: wal_keep_size = 1GB", "this server is a standby, and keeps no log for the agent until it is promoted: what the other site lacks then may be gone")
		}
	} else {
		if keepsNone {
			j.info(foundKeep, "let it keep some: wal_keep_size = 128MB", "the server keeps no log of what the other site has: an agent that starts again after a checkpoint may have nothing to compare, and then ships nothing")
		}
		j.commits(f)
		j.slot(f)
	}
	j.others(f)
	j.room(f)
	return j.all
}

// jury collects findings.
type jury struct{ all []local.Finding }

func (j *jury) add(s local.Severity, name, hint, format string, args ...any) {
	class := tidegate.Permanent
	if s == local.SeverityInfo {
		class = tidegate.Misuse
	}
	j.all = append(j.all, local.Finding{Name: name, Severity: s, Class: class, Text: fmt.Sprintf(format, args...), Hint: hint})
}

func (j *jury) info(name, hint, format string, args ...any) {
	j.add(local.SeverityInfo, name, hint, format, args...)
}

func (j *jury) warn(name, hint, format string, args ...any) {
	j.add(local.SeverityWarning, name, hint, format, args...)
}

func (j *jury) critical(name, hint, format string, args ...any) {
	j.add(local.SeverityCritical, name, hint, format, args...)
}

// server judges how the server writes.
func (j *jury) server(f *facts) {
	set := f.survey.Settings
	if l := set["wal_level"]; l != "" && l != "replica" && l != "logical" {
		j.critical(foundWALLevel, "set wal_level to replica, and restart the server", "wal_level is %s: its log cannot be replayed elsewhere", l)
	}
	if set["fsync"] == "off" {
		j.warn(foundFsync, "set fsync to on, and reload", "fsync is off: after a crash of the machine the server and the other site differ")
	}
	if set["full_page_writes"] == "off" {
		j.warn(foundTornPages, "set full_page_writes to on, and reload, unless the file system never tears a page", "full_page_writes is off: pages that a crash tears are not mended, neither here nor after a rewind")
	}
	if set["data_checksums"] == "off" {
		j.info(foundChecksums, "with the server stopped: pg_checksums --enable", "data checksums are off: damaged pages are shipped in bases without being noticed")
	}
	if w := f.survey.ArchiveFailed; w != "" {
		j.warn(foundArchive, "see archive_command in the server's log; log is kept until it is archived, whatever the slot needs", "the server fails to archive its log, last %s", w)
	}
}

// commits judges who is not protected.
func (j *jury) commits(f *facts) {
	if u := f.survey.Unwaiting; len(u) > 0 && f.promises {
		var who []string
		for _, one := range u {
			who = append(who, one.String())
		}
		j.warn(foundUnwaiting, "ALTER ROLE or ALTER DATABASE ... RESET synchronous_commit, ALTER SUBSCRIPTION ... SET (synchronous_commit = on), unless they may be lost",
			"commits that do not wait for the other site: %s", list(who))
	}
	if len(f.unlogged) > 0 {
		j.warn(foundUnlogged, "ALTER TABLE ... SET LOGGED, unless it may be empty after a failover", "unlogged tables are empty at the other site: %s", list(f.unlogged))
	}
	if len(f.unloggedErr) > 0 {
		j.info(foundUnseen, "let the agent's role connect to them, in pg_hba.conf", "whether there are unlogged tables is not known of: %s", list(f.unloggedErr))
	}
}

// spare judges our own slot on a standby, of which the server says only from where
// on it keeps.
func (j *jury) spare(f *facts) {
	s, held := f.held()
	switch {
	case s == nil:
		j.warn(foundSlotGone, "see why the agent cannot make it (max_replication_slots, rights, room); it makes it anew by itself, after drop_slot_below when it is started again",
			"slot %s is not there: this server keeps no log that the other site lacks, and would need a new generation if it were promoted behind an outage", f.settings.Slot)
	case held < otherHeldMin:
	default:
		text := fmt.Sprintf("slot %s of this standby holds %s of log that the other site lacks", s.Name, size(float64(held)))
		if left, known := f.left(); known {
			j.add(severityOf(left), foundSlotHolds, holdsHint, "%s: the disk is full in about %s", text, span(left))
			return
		}
		j.warn(foundSlotHolds, holdsHint, "%s", text)
	}
}

// held is our own slot, nil if there is none, and how much log lies behind its place.
func (f *facts) held() (slot *replication.SlotState, bytes int64) {
	i := slices.IndexFunc(f.survey.Slots, func(s replication.SlotState) bool { return s.Name == f.settings.Slot })
	if i < 0 {
		return nil, 0
	}
	s := &f.survey.Slots[i]
	if s.Restart == 0 {
		return s, 0
	}
	return s, max(0, int64(f.survey.End)-int64(s.Restart))
}

const holdsHint = "bring the other site or the link back, or make room; see docs/operating/postgresql.md, Abandoned slots"

// slot judges our own slot on a primary.
func (j *jury) slot(f *facts) {
	own, held := f.held()
	if own == nil && f.gaveUp {
		return // that is said otherwise
	}
	if own == nil {
		j.critical(foundSlotGone, "see why the agent cannot make it (max_replication_slots, rights); it makes it anew by itself", "slot %s is not there: nothing keeps the log that the other site lacks", f.settings.Slot)
		return
	}
	s := *own
	j.rows(s)
	switch {
	case s.Keeping == replication.KeepingLost:
		hint, why := "raise max_slot_wal_keep_size", ""
		if s.Why != "" {
			why = ", by " + s.Why
		}
		if s.Why == "idle_timeout" {
			hint = "set idle_replication_slot_timeout to 0"
		}
		j.critical(foundSlotLost, "begin a new generation of the stream, for which the agent makes the slot anew: "+f.anew+"; and "+hint, "slot %s has lost the log that it was to keep%s", s.Name, why)
		return
	case s.Keeping == replication.KeepingUnreserved:
		j.critical(foundSlotLimit, "bring the other site or the link back now, or raise max_slot_wal_keep_size and reload", "slot %s holds more than max_slot_wal_keep_size: its log goes at the next checkpoint", s.Name)
	case s.HasSafe:
		j.limit(f, s)
	case f.settings.DropSlotBelow == 0:
		j.info(foundUnbounded, "set max_slot_wal_keep_size to what the disk has room for, or drop_slot_below in the agent's settings",
			"nothing bounds what slot %s keeps: while the other site is away the disk fills until the server stops", s.Name)
	}
	if n, err := strconv.ParseInt(f.survey.Settings["idle_replication_slot_timeout"], 10, 32); err == nil && n > 0 { // none before 18
		j.warn(foundSlotIdle, "set idle_replication_slot_timeout to 0, and reload: max_slot_wal_keep_size bounds what a slot may cost",
			"slot %s is lost when the agent is away for %s, by idle_replication_slot_timeout", s.Name, span(time.Duration(n)*time.Second))
	}
	if s.Keeping != replication.KeepingExtended {
		return
	}
	text := fmt.Sprintf("slot %s holds %s of log that the other site lacks", s.Name, size(float64(held)))
	if f.grows > 0 {
		text += fmt.Sprintf(", growing %s/s", size(f.grows))
	}
	if left, known := f.left(); known {
		j.add(severityOf(left), foundSlotHolds, holdsHint, "%s: the disk is full in about %s", text, span(left))
		return
	}
	j.warn(foundSlotHolds, holdsHint, "%s", text)
}

// rows judges for how long old rows are kept for reads at the other site.
func (j *jury) rows(s replication.SlotState) {
	if s.XminAge < rowsOld {
		return
	}
	severity := local.SeverityWarning
	if s.XminAge >= rowsVeryOld {
		severity = local.SeverityCritical
	}
	j.add(severity, foundOldRows, "end the old queries on the warm server (pg_stat_activity there, xact_start), or set hot_standby_feedback to false: tables grow meanwhile",
		"slot %s keeps old rows for reads at the other site, since %d million transactions", s.Name, s.XminAge/1_000_000)
}

// left is how long the disk lasts at what the slot grows by.
func (f *facts) left() (time.Duration, bool) {
	if f.disk.err != nil || f.grows <= 0 {
		return 0, false
	}
	return seconds(float64(f.disk.free) / f.grows), true
}

// limit judges how long the slot lasts under max_slot_wal_keep_size.
func (j *jury) limit(f *facts, s replication.SlotState) {
	const hint = "raise max_slot_wal_keep_size, and reload; beyond it the stream is lost, and needs a new generation"
	if f.grows > 0 {
		if left := seconds(float64(s.SafeBytes) / f.grows); left < fullSoon && s.Keeping == replication.KeepingExtended {
			j.add(severityOf(left), foundSlotLimit, hint, "slot %s loses its log in about %s, by max_slot_wal_keep_size", s.Name, span(left))
			return
		}
	}
	if f.rate > 0 {
		if lasts := seconds(float64(s.SafeBytes) / f.rate); lasts < outageMin {
			j.warn(foundSlotLimit, hint, "max_slot_wal_keep_size leaves slot %s room for %s of log, which is written in about %s: an outage must not be longer", s.Name, size(float64(s.SafeBytes)), span(lasts))
		}
	}
}

// others judges slots that are not ours.
func (j *jury) others(f *facts) {
	var who []string
	for _, s := range f.survey.Slots {
		if s.Name == f.settings.Slot || s.ActivePID != 0 || s.Restart == 0 || s.Keeping == replication.KeepingLost {
			continue
		}
		if held := int64(f.survey.End) - int64(s.Restart); s.Keeping != replication.KeepingReserved || held >= otherHeldMin {
			who = append(who, fmt.Sprintf("%s, %s", s.Name, size(float64(max(0, held)))))
		}
	}
	if len(who) > 0 {
		j.warn(foundOtherSlot, "if nobody needs it any more: SELECT pg_drop_replication_slot('<slot>')", "slots that nobody uses hold log, too: %s", list(who))
	}
}

// room judges the disk.
func (j *jury) room(f *facts) {
	d, below := f.disk, f.settings.DropSlotBelow
	const hint = "make room on the disk of pg_wal; when it is full the server stops"
	switch share := d.share(); {
	case d.err != nil && below > 0:
		j.warn(foundDiskUnseen, "set wal_disk to a directory on the disk of pg_wal that the agent may look at", "the room on the disk of pg_wal is not known, and drop_slot_below depends on it: %v", d.err)
	case d.err != nil:
		j.info(foundDiskUnseen, "set wal_disk to a directory on the disk of pg_wal that the agent may look at", "the room on the disk of pg_wal is not known: %v", d.err)
	case share < diskVeryLow:
		j.critical(foundDisk, hint, "%.1f%% of the disk of pg_wal is free, %s%s", share*100, size(float64(d.free)), logText(f))
	case share < max(diskLow, 1.5*float64(below)/100):
		j.warn(foundDisk, hint, "%.1f%% of the disk of pg_wal is free, %s%s", share*100, size(float64(d.free)), logText(f))
	}
}

func logText(f *facts) string {
	if f.survey.LogBytes < 0 {
		return ""
	}
	return "; the log takes " + size(float64(f.survey.LogBytes))
}

// mustDrop reports whether the operator's policy gives the slot up now, and why: it
// holds log that the server would not keep for itself, and the disk has less room
// than was declared.
func mustDrop(f *facts) (why string, drop bool) {
	below := float64(f.settings.DropSlotBelow) / 100
	if below == 0 || f.disk.err != nil || f.disk.share() >= below {
		return "", false
	}
	s, held := f.held()
	if s == nil || !f.keeps(s, held) {
		return "", false
	}
	return fmt.Sprintf("%.1f%% of the disk of pg_wal was free, less than drop_slot_below, and slot %s held %s of log",
		f.disk.share()*100, s.Name, size(float64(held))), true
}

// keeps reports whether the server keeps log for our slot that it would not keep for
// itself. Only a primary says so.
func (f *facts) keeps(s *replication.SlotState, held int64) bool {
	if f.survey.InRecovery {
		own, _ := strconv.ParseInt(f.survey.Settings["wal_keep_size"], 10, 64) // MB; not shown is none
		return held > own<<20+spareHeldMin
	}
	return s.Keeping == replication.KeepingExtended || s.Keeping == replication.KeepingUnreserved
}

func severityOf(left time.Duration) local.Severity {
	if left < fullNow {
		return local.SeverityCritical
	}
	return local.SeverityWarning
}

// seconds is a duration of n seconds, at most a hundred years.
func seconds(n float64) time.Duration {
	return time.Duration(min(max(n, 0), 100*365*24*3600) * float64(time.Second))
}

func span(d time.Duration) string {
	if d < time.Minute {
		return d.Round(time.Second).String()
	}
	return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
}

// size says bytes to people.
func size(n float64) string {
	if n < 1024 {
		return fmt.Sprintf("%.0f B", n)
	}
	for _, unit := range []string{"KiB", "MiB", "GiB"} {
		if n /= 1024; n < 1024 {
			return fmt.Sprintf("%.1f %s", n, unit)
		}
	}
	return fmt.Sprintf("%.1f TiB", n/1024)
}

// list names some of many.
func list(all []string) string {
	if more := len(all) - namesMax; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:namesMax], "; "), more)
	}
	return strings.Join(all, "; ")
}
