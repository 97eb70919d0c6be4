package replication

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// at is a moment that golden bytes are of: 2026-11-21 00:00:00.000001 UTC.
var at = time.Date(2026, 11, 21, 0, 0, 0, 1000, time.UTC)

func TestGoldenFrames(t *testing.T) {
	var status [envelopeBytes + statusBytes]byte
	encodeStatus(&status, Status{Write: 0x1_00000003, Flush: 2, Apply: 1}, at, true)
	var feedback [envelopeBytes + feedbackBytes]byte
	encodeFeedback(&feedback, Feedback{Xmin: 1, XminEpoch: 2, CatalogXmin: 3, CatalogXminEpoch: 4}, at)
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"status":   {status[:], "64" + "00000026" + "72" + "0000000100000003" + "0000000000000002" + "0000000000000001" + "000303bccf7de001" + "01"},
		"feedback": {feedback[:], "64" + "0000001d" + "68" + "000303bccf7de001" + "00000001" + "00000002" + "00000003" + "00000004"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

func TestDecode(t *testing.T) {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	head := "0000000100000000" + "0000000100000009" + "000303bccf7de001"
	m, err := decode(unhex("77" + head + "abcd"))
	want := Message{Start: 1 << 32, End: 1<<32 + 9, SentAt: at.UnixNano(), Data: []byte{0xab, 0xcd}}
	if d := cmp.Diff(want, m); err != nil || d != "" || m.Keepalive() || m.Next() != 1<<32+2 {
		t.Errorf("log: %v %s", err, d)
	}
	m, err = decode(unhex("6b" + "0000000100000009" + "000303bccf7de001" + "01"))
	want = Message{Start: 1<<32 + 9, End: 1<<32 + 9, SentAt: at.UnixNano(), Reply: true}
	if d := cmp.Diff(want, m); err != nil || d != "" || !m.Keepalive() || m.Next() != m.End {
		t.Errorf("keepalive: %v %s", err, d)
	}
	for _, s := range []string{"", "77", "77" + head, "6b", "6b00", "70" + head} {
		if _, err := decode(unhex(s)); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("k\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x01"))
	f.Add(append([]byte("w"), make([]byte, 40)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err == nil && !m.Keepalive() && !bytes.HasSuffix(b, m.Data) {
			t.Errorf("data of %x is %x", b, m.Data)
		}
	})
}

func FuzzParseOpaque(f *testing.F) {
	f.Add(Feedback{1, 2, 3, 4}.Opaque())
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := ParseOpaque(s); err == nil && got.Opaque() != s {
			t.Errorf("%x is read as %+v, which is %x", s, got, got.Opaque())
		}
	})
}

func TestOpaqueFeedback(t *testing.T) {
	s := Feedback{Xmin: 0x01020304, XminEpoch: 5, CatalogXmin: 6, CatalogXminEpoch: 7}.Opaque()
	if got, want := hex.EncodeToString([]byte(s)), "01"+"04030201"+"05000000"+"06000000"+"07000000"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for _, bad := range []string{"", s[1:], s + "x", "\x02" + s[1:]} {
		if _, err := ParseOpaque(bad); err == nil {
			t.Errorf("%x was accepted", bad)
		}
	}
}

func TestOldestOfFeedbacks(t *testing.T) {
	for _, tc := range []struct{ a, b, want Feedback }{
		{Feedback{}, Feedback{}, Feedback{}},
		{Feedback{Xmin: 9}, Feedback{Xmin: 7}, Feedback{Xmin: 7}},
		{Feedback{Xmin: 9, XminEpoch: 1}, Feedback{Xmin: 10}, Feedback{Xmin: 10}}, // the id wrapped around in between
		{Feedback{Xmin: 9, CatalogXmin: 3}, Feedback{CatalogXmin: 2, CatalogXminEpoch: 1}, Feedback{Xmin: 9, CatalogXmin: 3}},
		{Feedback{Xmin: 9}, Feedback{CatalogXmin: 2}, Feedback{Xmin: 9, CatalogXmin: 2}},
	} {
		if got := tc.a.Oldest(tc.b); got != tc.want {
			t.Errorf("%+v and %+v: %+v, want %+v", tc.a, tc.b, got, tc.want)
		}
		if got := tc.b.Oldest(tc.a); got != tc.want {
			t.Errorf("%+v and %+v: %+v, want %+v", tc.b, tc.a, got, tc.want)
		}
	}
}

func FuzzManifest(f *testing.F) {
	golden, err := filepath.Glob("testdata/manifest-*.json")
	if err != nil || len(golden) == 0 {
		f.Fatal("no golden manifests", err)
	}
	for _, name := range golden {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		if _, err := ParseManifest(b); err != nil {
			f.Fatal(name, err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseManifest(b)
		if err != nil && !errors.As(err, new(*tidegate.CorruptError)) || err == nil && m == nil {
			t.Error(m, err)
		}
	})
}

// TestCompare: every way in which what came can differ from what is listed.
func TestCompare(t *testing.T) {
	b := Backup{End: 9, EndTimeline: 2}
	fresh := func() (*Manifest, map[string]sum) {
		return &Manifest{
			Files:  []ManifestFile{{"a", 1, 7}, {"b", 2, 8}},
			Ranges: []ManifestRange{{1, 1, 5}, {2, 5, 9}},
		}, map[string]sum{"a": {1, 7}, "b": {2, 8}}
	}
	m, seen := fresh()
	if err := m.compare(seen, b); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(m *Manifest, seen map[string]sum){
		"missing":   func(_ *Manifest, seen map[string]sum) { delete(seen, "a") },
		"more":      func(_ *Manifest, seen map[string]sum) { seen["c"] = sum{} },
		"size":      func(_ *Manifest, seen map[string]sum) { seen["a"] = sum{2, 7} },
		"checksum":  func(_ *Manifest, seen map[string]sum) { seen["a"] = sum{1, 8} },
		"twice":     func(m *Manifest, _ map[string]sum) { m.Files = append(m.Files, m.Files[0]) },
		"no ranges": func(m *Manifest, _ map[string]sum) { m.Ranges = nil },
		"other end": func(m *Manifest, _ map[string]sum) { m.Ranges[1].End = 10 },
	} {
		m, seen := fresh()
		spoil(m, seen)
		if err := m.compare(seen, b); !errors.As(err, new(*tidegate.CorruptError)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRefusalsInAnyLanguage: servers translate their words, not their positions,
// codes and routines.
func TestRefusalsInAnyLanguage(t *testing.T) {
	for name, c := range map[string]struct {
		pg   pgconn.PgError
		want error
	}{
		"ahead":    {pgconn.PgError{Code: "XX000", Routine: "StartReplication", Message: "angeforderter Startpunkt 0/900FA8 ist vor der Flush-Position 0/600FA8"}, ErrAhead},
		"history":  {pgconn.PgError{Code: "XX000", Routine: "StartReplication", Message: "angeforderter Startpunkt 0/900FA8 auf Zeitleiste 1 ist nicht in der History"}, ErrTimeline},
		"timeline": {pgconn.PgError{Code: "XX000", Routine: "tliSwitchPoint", Message: "angeforderte Zeitleiste 7"}, ErrTimeline},
		"lost":     {pgconn.PgError{Code: "55000", Routine: "ReplicationSlotAcquire", Message: "kann nicht"}, ErrSlotLost},
		"internal": {pgconn.PgError{Code: "XX000", Routine: "elsewhere", Message: "0/1"}, nil},
		"file":     {pgconn.PgError{Code: "58P01", Routine: "sendFile", Message: "Datei fehlt"}, nil},
		"missing":  {pgconn.PgError{Code: "42704", Routine: "ReplicationSlotAcquire"}, ErrSlotMissing},
		"setting":  {pgconn.PgError{Code: "42704", Routine: "find_option"}, nil},
		"other":    {pgconn.PgError{Code: "55000", Routine: "elsewhere"}, nil},
	} {
		err := diagnose("stream from", "db1", &c.pg)
		if tidegate.ClassOf(err) != tidegate.Permanent || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if c.want == nil && (errors.Is(err, ErrTimeline) || errors.Is(err, ErrAhead) || errors.Is(err, ErrSlotLost) ||
			errors.Is(err, ErrSlotMissing) || errors.Is(err, ErrSegmentRemoved)) {
			t.Errorf("%s: %v", name, err)
		}
		if !errors.As(err, new(*pgconn.PgError)) {
			t.Errorf("%s: the server's own error is not in %v", name, err)
		}
	}
}

func TestVersions(t *testing.T) {
	for s, want := range map[string]int{"15.18 (Debian 15.18-0+deb12u1)": 15, "18beta1": 18, "17devel": 17, "9.6.24": 9} {
		if got, err := major(s); got != want || err != nil {
			t.Errorf("%s: %d, %v", s, got, err)
		}
	}
	if _, err := major("EnterpriseDB"); err == nil {
		t.Error("a version without a number was taken")
	}
	if got := (Message{Start: 5, Data: make([]byte, 3)}).Next(); got != wal.LSN(8) {
		t.Error(got)
	}
}
