package open_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/open"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/rates"
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
		"url: file:///srv\nencryption: {kms: {key: alias/archive, region: eu-west-1, endpoint: 'https://kms.example'}}":                                "",
		"url: file:///srv\nencryption: {kms: {key: 'arn:aws:kms:eu-west-1:111122223333:key/11111111-2222-3333-4444-555555555555'}}":                    "",
		"url: file:///srv\nencryption: {kms: {key: 'arn:aws:kms:eu-west-1:111122223333:key/mrk-0123456789abcdef0123456789abcdef', region: us-east-2}}": "",
		"url: file:///srv\nencryption: {kms: {key: 'arn:aws:kms:eu-west-1:111122223333:alias/archive', region: us-east-2}}":                            "encryption.kms.region: want eu-west-1",
		"url: file:///srv\nencryption: {kms: {key: 'arn:aws:s3:::bucket'}}":                                                                            "encryption.kms.key: want arn:aws:kms",
		"url: file:///srv\nencryption: {kms: {region: eu-west-1}}":                                                                                     "encryption.kms.key: want",
		"url: file:///srv\nencryption: {kms: {key: alias/a, endpoint: 'kms.example'}}":                                                                 "encryption.kms.endpoint: want",
		"url: file:///srv\nencryption: {key_file: /etc/k, kms: {key: alias/a}}":                                                                        "encryption: want key_file or kms",
		"url: file:///srv\nencryption: {kms: {key: alias/a, secret: x}}":                                                                               "unknown key",
		"url: file:///srv\nsecret: x": "secret (line 2): unknown key",
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

func TestSample(t *testing.T) {
	text, err := os.ReadFile("../../../packaging/samples/archive.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// The whole file is the block, two columns in.
	block, ok := strings.CutPrefix(string(text[strings.Index(string(text), "archive:\n"):]), "archive:\n")
	if !ok {
		t.Fatal("no block")
	}
	if cfg, err := config.Parse[open.Config]("archive.yaml", []byte(block)); err != nil || cfg.Lock == 0 {
		t.Errorf("%+v, %v", cfg, err)
	}
}

func TestOpenServersBucketsWithoutAServer(t *testing.T) {
	keyFile := filepath.Join(t.TempDir(), "archive.key")
	if err := os.WriteFile(keyFile, []byte("one "+strings.Repeat("0a", 32)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CONFIG_FILE", os.DevNull)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
	for _, driver := range []string{open.DriverS3, open.DriverMinIO} {
		cfg := open.Config{URL: "s3://archive/some/prefix", Driver: driver, Endpoint: "https://127.0.0.1:1", Lock: time.Hour, Encryption: open.Encryption{KeyFile: keyFile}}
		b, err := open.Open(t.Context(), cfg)
		if err != nil || b.String() != "s3://archive/some/prefix/ at https://127.0.0.1:1 (encrypted)" {
			t.Errorf("%s: %v, %v", driver, b, err)
		}
		cfg.CA = filepath.Join(t.TempDir(), "none.pem")
		if _, err := open.Open(t.Context(), cfg); tidegate.ClassOf(err) != tidegate.Misuse || !strings.Contains(err.Error(), "none.pem") {
			t.Errorf("%s, without its authorities: %v", driver, err)
		}
		cfg.CA, cfg.Encryption.KeyFile = "", keyFile+".none"
		if _, err := open.Open(t.Context(), cfg); tidegate.ClassOf(err) != tidegate.Misuse {
			t.Errorf("%s, without its keys: %v", driver, err)
		}
	}
}

func TestOpenEncryptedDirectoryUnderARate(t *testing.T) {
	root := t.TempDir()
	keyFile := filepath.Join(t.TempDir(), "archive.key")
	if err := os.WriteFile(keyFile, []byte("one "+strings.Repeat("0a", 32)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	files := rates.New(t.TempDir(), clock.System(), slog.New(slog.DiscardHandler), []rates.Limit{{Name: "archive", Unit: rates.BytesPerSecond}})
	b, err := open.OpenWith(t.Context(), open.Config{URL: "file://" + root, Encryption: open.Encryption{KeyFile: keyFile}}, open.Around{Rate: files.Limiter("archive")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(t.Context(), "a/b", strings.NewReader("secret"), bucket.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, _, err := bucket.ReadAll(t.Context(), b, "a/b", 100); err != nil || string(got) != "secret" {
		t.Errorf("%q, %v", got, err)
	}
	raw, err := os.ReadFile(filepath.Join(root, "a", "b"))
	if err != nil || strings.Contains(string(raw), "secret") {
		t.Errorf("%q, %v", raw, err)
	}
}
