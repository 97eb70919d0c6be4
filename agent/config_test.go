package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/config"
)

const goodFile = `
node: {cluster: acme, site: east, name: n1}
tls: {ca: /etc/tidegate/ca.crt, cert: /etc/tidegate/n1.crt, key: /etc/tidegate/n1.key}
gates: ["g1:7412", "g2:7412"]
streams:
  - {service: ledger, stream: main, journal_dir: /var/lib/ledger/journal, endpoint: "n1:8080"}
`

func TestConfigDefaults(t *testing.T) {
	c, err := config.Parse[Config]("agent.yaml", []byte(goodFile))
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != DefaultListen || c.Limits.BatchBytesMax != 1<<20 || c.Limits.RingBytesMax != 32<<20 || c.Streams[0].Source != SourceJournal {
		t.Errorf("defaults not set: %+v", c)
	}
}

func TestConfigReportsEveryMistakeWithItsPath(t *testing.T) {
	_, err := config.Parse[Config]("agent.yaml", []byte(`
node: {cluster: acme, site: East, name: n1}
tls: {ca: ca.crt, cert: /n1.crt, key: /n1.key}
listen: "0.0.0.0:7413"
data_dir: data
limits: {batch_bytes_max: 8MiB, ring_bytes_max: 1MiB, memory_max: 1MiB}
streams:
  - {service: ledger, stream: main, journal_dir: /j}
  - {service: ledger, stream: main, journal_dir: /j, source: mysql, endpoint: nowhere}
`))
	if err == nil {
		t.Fatal("no error")
	}
	got := strings.Split(err.Error(), "\n")[1:]
	for i, line := range got {
		got[i], _, _ = strings.Cut(strings.TrimSpace(line), ": ")
	}
	want := []string{
		"node.site", "tls.ca", "listen", "data_dir", "limits.batch_bytes_max", "limits.ring_bytes_max",
		"gates", "limits.memory_max", "streams[1].source", "streams[1].endpoint", "streams[1].stream", "streams[1].journal_dir",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s\n%v", diff, err)
	}
}

func TestConfigOfTheOtherLane(t *testing.T) {
	c, err := config.Parse[Config]("agent.yaml", []byte(goodFile+"archive: {url: 's3://b', endpoint: 'https://minio:9000'}\ndrop: {back: 7s}\n"))
	if err != nil || c.Archive.Driver != "minio" || c.Drop.After != DefaultDropAfter || c.Drop.Back != 7*time.Second || c.Drop.Slow != DefaultDropSlow || c.Drop.Every == 0 {
		t.Errorf("%+v, %+v, %v", c.Archive, c.Drop, err)
	}
	for text, want := range map[string]string{
		"drop: {after: 10s}":                                             "drop: want none without an archive",
		"archive: {url: 's3://b', driver: s3}":                           "archive.driver: want minio",
		"archive: {url: 's3://b'}":                                       "archive.endpoint: want",
		"archive: {url: 'file:///b', encryption: {kms: {key: alias/a}}}": "archive.encryption.kms: want none",
		"archive: {url: 'file:///b'}\ndrop: {after: 2m}":                 "drop.slow: want at least 2m",
		"archive: {url: 'file:///b'}\ndrop: {after: 1ms, back: 1ms}":     "drop.back: want at least 1s",
		"archive: {url: 'file:///b'}\ndrop: {every: 1m}":                 "drop.every: want at most 1s",
		"limits: {memory_max: 48MiB}\narchive: {url: 'file:///b'}":       "limits.memory_max: want 0 for none, or at least",
		"archive: {url: 'file:///b'}\ndrop: {evry: 1s}":                  "evry",
		"archive: {url: 'file:///b', segment: 1MiB}":                     "segment",
	} {
		if _, err := config.Parse[Config]("agent.yaml", []byte(goodFile+text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestForksInOrder(t *testing.T) {
	const root = "journal:01020300000000000000000000000000"
	one := tidegate.Lineage(root + "+2@0000000000000100")
	two := one + "+5@0000000000000300"
	for _, tc := range []struct {
		name   string
		now    tidegate.Lineage
		start  tidegate.Position
		before tidegate.Lineage
		next   tidegate.Lineage
		at     tidegate.Position
	}{
		{"no fork", root, 0x100, root, "", 0},
		{"the history forked where the term begins", one, 0x100, root, one, 0x100},
		{"the history forked long ago", one, 0x200, one, "", 0},
		{"it will fork", two, 0x200, one, two, 0x300},
		{"it will fork twice", two, 0x80, root, one, 0x100},
		{"not known", "", 0, "", "", 0},
		{"not in this form", "redis:01+x", 0, "redis:01", "", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := lineageBefore(tc.now, tc.start)
			next, at, ok := nextFork(before, tc.now)
			if before != tc.before || ok != (tc.next != "") || ok && (next != tc.next || at != tc.at) {
				t.Errorf("before %q, then %q at %s (%v); want %q, %q at %s", before, next, at, ok, tc.before, tc.next, tc.at)
			}
		})
	}
}

func TestEffectiveBoundsAreTheTightest(t *testing.T) {
	b := func(k, n int64) tidegate.Bounds {
		return tidegate.Bounds{Records: k, Bytes: n, Window: tidegate.Unbounded}
	}
	for _, tc := range []struct {
		name       string
		want, have tidegate.Bounds
		out        tidegate.Bounds
		mode       tidegate.Mode
	}{
		{"loosening waits for the record", unbounded, tidegate.Bounds{}, tidegate.Bounds{}, tidegate.ModeSync},
		{"tightening does not", tidegate.Bounds{}, unbounded, tidegate.Bounds{}, tidegate.ModeSync},
		{"one of each", b(10, 500), b(100, 50), b(10, 50), tidegate.ModeBounded},
		{"open", unbounded, unbounded, unbounded, tidegate.ModeOpen},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tightest(tc.have, tc.want); got != tc.out || modeOf(got) != tc.mode {
				t.Errorf("bounds %+v (%s), want %+v (%s)", got, modeOf(got), tc.out, tc.mode)
			}
		})
	}
}
