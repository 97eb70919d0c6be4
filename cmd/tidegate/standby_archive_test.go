package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/internal/config"
)

// withArchive reads the sample with an archive.
func withArchive(t *testing.T, block string) (standbyFile, error) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(samples, "standby.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "standby.yaml")
	if err := os.WriteFile(path, append(b, "\narchive: "+block+"\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	return config.Load[standbyFile](path)
}

func TestArchiveBlock(t *testing.T) {
	f, err := withArchive(t, "{url: file:///srv/archive, every: 2s}")
	if err != nil {
		t.Fatal(err)
	}
	if p := f.config().SetDefaults().Archive; p.Every != 2*time.Second || p.Segment != archive.SegmentDefault || p.Validate() != nil {
		t.Errorf("%+v, %v", p, p.Validate())
	}
	f, err = withArchive(t, "{}")
	if err != nil || !f.Archive.IsZero() {
		t.Errorf("an empty block: %+v, %v", f.Archive, err)
	}
	for block, want := range map[string]string{
		"{url: file:///srv/archive}\ndrop: {every: 6s}": "drop.every: want at most 1s",
		"{url: file:///srv/archive}\ndrop: {look: 3s}":  "drop.look: want at most 2s",
		"{url: file:///srv/archive}\ndrop: {look: 1ms}": "drop.look: want at least 10ms",
		"{}\ndrop: {off: true}":                         "drop: want none without an archive",
		"{every: 10s}":                                  "archive.url",
		"{url: file:///srv/archive, segment: 1GiB}":     "archive.segment",
		"{url: file:///srv/archive, urls: x}":           "urls",
		"{url: s3://bucket, driver: gopher}":            "archive.driver",
		"{url: file:///srv/archive, driver: minio}":     "archive.driver",
		"{url: file:///srv/archive, every: -1s}":        "archive.every",
		"{url: ftp://somewhere, segment: 1MiB}":         "archive.url",
		"{url: s3://b, encryption: {key_file: a.key}}":  "archive.encryption.key_file",
	} {
		if _, err := withArchive(t, block); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want a word about %s", block, err, want)
		}
	}
}
