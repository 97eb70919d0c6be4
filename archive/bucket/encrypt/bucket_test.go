package encrypt_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/buckettest"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/archive/bucket/encrypt"
	"github.com/tidegate/tidegate/internal/vfs"
)

const (
	keyOne = "one 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n"
	keyTwo = "two ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100\n"
)

func keys(t testing.TB, text string) *encrypt.Keys {
	t.Helper()
	k, err := encrypt.ParseKeys(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func plainBucket(t testing.TB) bucket.Bucket {
	t.Helper()
	mem := vfs.NewMem()
	if err := mem.MkdirAll("/archive"); err != nil {
		t.Fatal(err)
	}
	return dir.New(mem, "/archive")
}

func TestConformance(t *testing.T) {
	buckettest.Run(t, func(t *testing.T) buckettest.Place {
		inner, k := plainBucket(t), keys(t, keyOne)
		return buckettest.Place{
			Open:  func(*testing.T) bucket.Bucket { return encrypt.New(inner, k) },
			Large: 5*encrypt.ChunkBytes + 17,
			Page:  10,
		}
	})
}

func put(t *testing.T, b bucket.Bucket, name string, data []byte) {
	t.Helper()
	if _, err := b.Put(t.Context(), name, bytes.NewReader(data), bucket.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, b bucket.Bucket, name string, off, n int64) ([]byte, error) {
	t.Helper()
	r, err := b.Get(t.Context(), name, off, n)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func content(size int) []byte {
	data := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(size)})
	_, _ = r.Read(data) // never fails
	return data
}

// sizes are those around the borders of chunks.
func sizes() []int {
	const c = encrypt.ChunkBytes
	return []int{0, 1, c - 1, c, c + 1, 2*c - 1, 2 * c, 2*c + 1, 3 * c}
}

func TestRangesAroundTheBordersOfChunks(t *testing.T) {
	const c = encrypt.ChunkBytes
	inner := plainBucket(t)
	for _, size := range sizes() {
		data := content(size)
		put(t, encrypt.New(inner, keys(t, keyOne)), "it", data)
		b := encrypt.New(inner, keys(t, keyOne))
		o, err := b.Stat(t.Context(), "it")
		if err != nil || o.Size != int64(size) {
			t.Fatalf("%+v, %v; want the size %d", o, err, size)
		}
		for _, off := range []int{0, 1, c - 1, c, c + 1, 2 * c, 3*c - 1, 3 * c, 9 * c} {
			for _, n := range []int{-1, 0, 1, c - 1, c, c + 1, 2 * c, 9 * c} {
				from, to := min(off, size), size
				if n >= 0 {
					to = min(from+n, size)
				}
				got, err := get(t, b, "it", int64(off), int64(n))
				if err != nil || !bytes.Equal(got, data[from:to]) {
					t.Fatalf("of %d bytes %d, %d: %d bytes, %v; want %d", size, off, n, len(got), err, to-from)
				}
			}
		}
	}
}

func TestNothingIsReadable(t *testing.T) {
	inner := plainBucket(t)
	secret := bytes.Repeat([]byte("the secret text "), 10_000)
	put(t, encrypt.New(inner, keys(t, keyOne)), "it", secret)
	sealed, err := get(t, inner, "it", 0, -1)
	if err != nil || bytes.Contains(sealed, []byte("secret")) {
		t.Fatalf("%v, or the text is there", err)
	}
	put(t, encrypt.New(inner, keys(t, keyOne)), "it", secret)
	again, err := get(t, inner, "it", 0, -1)
	if err != nil || bytes.Equal(sealed[:encrypt.HeaderBytes], again[:encrypt.HeaderBytes]) || bytes.Equal(sealed[encrypt.HeaderBytes:], again[encrypt.HeaderBytes:]) {
		t.Errorf("%v, or two objects under one key", err)
	}
}

// Every flipped bit and every cut must be noticed by whoever reads all.
func TestDamageIsNoticed(t *testing.T) {
	const c = encrypt.ChunkBytes
	inner, k := plainBucket(t), keys(t, keyOne)
	for _, size := range []int{0, 100, c, 2*c + 5} {
		put(t, encrypt.New(inner, k), "it", content(size))
		sealed, err := get(t, inner, "it", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		check := func(what string, at int, damaged []byte) {
			t.Helper()
			put(t, inner, "it", damaged)
			got, err := get(t, encrypt.New(inner, k), "it", 0, -1)
			if tidegate.ClassOf(err) != tidegate.Corrupt {
				t.Errorf("of %d bytes, %s at %d: %d bytes, %v", size, what, at, len(got), err)
			}
		}
		for at := 0; at < len(sealed); at += 1 + at/7 {
			flipped := bytes.Clone(sealed)
			flipped[at] ^= 4
			check("flipped", at, flipped)
			check("cut", at, sealed[:at])
		}
		check("longer", len(sealed), append(bytes.Clone(sealed), 0))
		// Between two chunks nothing is torn.
		for at := encrypt.HeaderBytes; at < len(sealed); at += c + encrypt.TagBytes {
			check("cut", at, sealed[:at])
		}
	}
}

func TestChunksStayInTheirOrder(t *testing.T) {
	const sealed = encrypt.ChunkBytes + encrypt.TagBytes
	inner, k := plainBucket(t), keys(t, keyOne)
	put(t, encrypt.New(inner, k), "it", content(3*encrypt.ChunkBytes))
	all, err := get(t, inner, "it", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	h := encrypt.HeaderBytes
	put(t, inner, "it", slicesOf(all[:h], all[h+sealed:h+2*sealed], all[h:h+sealed], all[h+2*sealed:]))
	if _, err := get(t, encrypt.New(inner, k), "it", 0, -1); tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("chunks in another order: %v", err)
	}
	put(t, inner, "other", all)
	if _, err := get(t, encrypt.New(inner, k), "other", 0, -1); tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("under another name: %v", err)
	}
}

func slicesOf(all ...[]byte) []byte { return bytes.Join(all, nil) }

func TestKeysAreReplacedByAddingOne(t *testing.T) {
	inner := plainBucket(t)
	put(t, encrypt.New(inner, keys(t, keyOne)), "old", []byte("old"))
	both := encrypt.New(inner, keys(t, "# of 2026\n"+keyOne+"\n"+keyTwo))
	put(t, both, "new", []byte("new"))
	for _, name := range []string{"old", "new"} {
		if got, err := get(t, both, name, 0, -1); err != nil || string(got) != name {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	_, err := get(t, encrypt.New(inner, keys(t, keyOne)), "new", 0, -1)
	if tidegate.ClassOf(err) != tidegate.Misuse || !strings.Contains(tidegate.HintOf(err), "add the key two") {
		t.Errorf("without its key: %v, hint %q", err, tidegate.HintOf(err))
	}
	_, err = get(t, encrypt.New(inner, keys(t, "one"+keyTwo[3:])), "old", 0, -1)
	if tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("with another key of that id: %v", err)
	}
	put(t, inner, "plain", bytes.Repeat([]byte("x"), 200))
	_, err = get(t, both, "plain", 0, -1)
	if tidegate.ClassOf(err) != tidegate.Corrupt || tidegate.HintOf(err) == "" {
		t.Errorf("of an object that is not encrypted: %v", err)
	}
}

// A header is remembered; the object may be another one when its next range is read.
func TestReplacedBetweenTwoRanges(t *testing.T) {
	inner, k := plainBucket(t), keys(t, keyOne)
	writer, reader := encrypt.New(inner, k), encrypt.New(inner, k)
	for round := range 3 {
		data := content(3*encrypt.ChunkBytes + round)
		put(t, writer, "it", data)
		for range 2 {
			got, err := get(t, reader, "it", encrypt.ChunkBytes+3, 10)
			if err != nil || !bytes.Equal(got, data[encrypt.ChunkBytes+3:][:10]) {
				t.Errorf("round %d: %v", round, err)
			}
		}
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "archive.key")
	write := func(text string, mode os.FileMode) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		text string
		mode os.FileMode
		want string // of the error; empty: none
	}{
		{keyOne + keyTwo, 0o640, ""},
		{keyOne, 0o644, "everybody on this machine"},
		{"", 0o600, "no key"},
		{"# one\n", 0o600, "no key"},
		{"one\n", 0o600, "line 1: want an id and a key"},
		{keyOne + "two 00ff", 0o600, "line 2: want 64 hex digits"},
		{keyOne + keyOne, 0o600, "line 2: the id one is there twice"},
		{"a/b" + keyOne[3:], 0o600, "line 1: an id is of"},
		{strings.Repeat("n", encrypt.IDMax+1) + keyOne[3:], 0o600, "line 1: an id has"},
		{strings.Repeat("#\n", 1<<20), 0o600, "too long"},
	} {
		write(c.text, c.mode)
		_, err := encrypt.ReadKeys(path)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || tidegate.ClassOf(err) != tidegate.Misuse) {
			t.Errorf("%.20q: %v, want %q", c.text, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "0102") {
			t.Errorf("a key in an error: %v", err)
		}
	}
	if _, err := encrypt.ReadKeys(path + ".none"); tidegate.HintOf(err) == "" {
		t.Errorf("no file: %v", err)
	}
}
