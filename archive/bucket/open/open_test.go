package open_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/open"
	"github.com/tidegate/tidegate/internal/config"
)

func TestConfig(t *testing.T) {
	for text, want := range map[string]string{
		"url: file:///srv/archive": "",
		"url: s3://archive":        "",
		"url: s3://archive/some/prefix\nendpoint: https://minio.example:9000\ndriver: minio\nregion: eu-west-1\nca: /etc/ca.pem\nlock: 720h\nencryption: {key_file: /etc/archive.key}": "",
		"region: x":                                   "url: want",
		"url: srv/archive":                            "url: want",
		"url: file://srv/archive":                     "url: want",
		"url: file:srv/archive":                       "url: want",
		"url: s3:///prefix":                           "url: want",
		"url: s3://key:secret@archive/":               "url: want",
		"url: s3://archive/a//b":                      "url: want a prefix",
		"url: s3://archive/?x=y":                      "url: want",
		"url: gs://archive":                           "url: want",
		"url: s3://archive\ndriver: boto":             "driver: want s3 or minio",
		"url: s3://archive\ndriver: minio":            "endpoint: want",
		"url: s3://archive\nendpoint: minio:9000":     "endpoint: want",
		"url: s3://archive\nca: ca.pem":               "ca: want an absolute path",
		"url: s3://archive\nlock: -1h":                "lock: want",
		"url: file:///srv\nlock: 1h":                  "lock: a directory cannot",
		"url: file:///srv\nendpoint: https://x":       "endpoint: a directory has none",
		"url: file:///srv\nencryption: {key_file: k":  "expected",
		"url: file:///srv\nencryption: {key_file: k}": "encryption.key_file: want an absolute path",
		"url: file:///srv\nsecret: x":                 "secret (line 2): unknown key",
	} {
		_, err := config.Parse[open.Config]("archive.yaml", []byte(text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if err := (open.Config{}).SetDefaults().Validate(); err != nil {
		t.Errorf("an absent block: %v", err)
	}
}

func TestOpenDirectory(t *testing.T) {
	root := t.TempDir()
	b, err := open.Open(t.Context(), open.Config{URL: "file://" + root})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(t.Context(), "a/b", strings.NewReader("x"), bucket.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if b.String() != "file://"+root {
		t.Errorf("%s", b)
	}
	b, err = open.Open(t.Context(), open.Config{URL: "file://" + root + "/none"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Stat(t.Context(), "a/b")
	if tidegate.ClassOf(err) != tidegate.Misuse || errors.Is(err, tidegate.ErrNotFound) || tidegate.HintOf(err) == "" {
		t.Errorf("a directory that is not there: %v", err)
	}
	if _, err := open.Open(t.Context(), open.Config{}); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("none: %v", err)
	}
}
