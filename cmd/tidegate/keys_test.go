package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/archive/archivetest"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/kms/kmstest"
	"github.com/tidegate/tidegate/archive/bucket/open"
	"github.com/tidegate/tidegate/internal/cli"
)

// TestKeysOfAnArchive: an archive under a KMS key is written, its key is rotated, and
// everything in it is read again by a command that has credentials alone.
func TestKeysOfAnArchive(t *testing.T) {
	kmstest.Credentials(t)
	service := kmstest.New(t)
	root := t.TempDir()
	fileOf := func(encryption string) string {
		path := filepath.Join(t.TempDir(), "archive.yaml")
		if err := os.WriteFile(path, []byte("url: file://"+root+"\nencryption: "+encryption+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	under := func(key string) open.Config {
		return open.Config{URL: "file://" + root, Encryption: open.Encryption{KMS: open.KMS{Key: key, Endpoint: service.URL}}}
	}
	file := fileOf("{kms: {key: '" + kmstest.Key + "', endpoint: '" + service.URL + "'}}")
	keys := func(want cli.Code, file string, args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		if code := cli.Code(run(t.Context(), append(append([]string{"tidegate"}, args...), "--archive", file), nil, &out, &errs)); code != want {
			t.Fatalf("%v: exit code %d, want %d\n%s%s", args, code, want, out.String(), errs.String())
		}
		return out.String() + errs.String()
	}

	says(t, keys(cli.OK, file, "keys", "list"), "no key yet")
	says(t, keys(cli.Refused, file, "keys", "rotate"), "it has none yet", "hint: ")
	process := func(key string) bucket.Bucket {
		b, err := open.Open(t.Context(), under(key))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	m := archivetest.New(t, process(kmstest.Key), "journal")
	m.Data(t, []byte(strings.Repeat("record", 99)), 1, 1, 1)
	m.Segment(t)
	other := fileOf("{kms: {key: '" + kmstest.Other + "', endpoint: '" + service.URL + "'}}")
	says(t, keys(cli.OK, other, "keys", "rotate"), "kms-0002 under "+kmstest.Other, "10m0s")
	says(t, keys(cli.OK, file, "keys", "list"), "kms-0001", kmstest.Key, "kms-0002", kmstest.Other, "yes")
	m.B = process(kmstest.Other)
	m.Data(t, []byte(strings.Repeat("second", 99)), 1, 2, 2)
	m.Segment(t)
	says(t, keys(cli.OK, file, "window"), "bank/main")
	says(t, keys(cli.OK, other, "verify"), "bank/main")

	service.Answer = func(_, key string) (int, string, string) {
		if key == kmstest.Key {
			return 400, "AccessDeniedException", "User: x is not authorized to perform: kms:Decrypt"
		}
		return 0, "", ""
	}
	var listed []keyResult
	text := keys(cli.Auth, other, "keys", "list", "-o", "json")
	if err := json.NewDecoder(strings.NewReader(text)).Decode(&listed); err != nil || len(listed) != 2 || listed[0].Opens || listed[0].Error == "" || !listed[1].Opens {
		t.Errorf("%v: %s", err, text)
	}
	says(t, text, "access denied", "hint: ")
	says(t, keys(cli.Auth, file, "window"), kmstest.Key, "hint: ")

	says(t, keys(cli.Usage, fileOf("{}"), "keys", "list"), "has no archive.encryption.kms")
	says(t, keys(cli.Usage, fileOf("{kms: {key: x}}"), "keys", "list"), "encryption.kms.key: want arn:aws:kms")
}
