package encrypt

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/tidegate/tidegate"
)

var update = flag.Bool("update", false, "write the golden bytes")

// golden is an object of two chunks, under keys and nonces that are not random.
func golden(t testing.TB) (keys *Keys, plain, sealed []byte) {
	t.Helper()
	keys, err := ParseKeys("key-2026.1 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n")
	if err != nil {
		t.Fatal(err)
	}
	dataKey := [KeyBytes]byte{1, 2, 3}
	head, err := sealHeader("streams/some/object", keys.newest, keys.byID[keys.newest], dataKey, [nonceBytes]byte{9, 8, 7})
	if err != nil {
		t.Fatal(err)
	}
	aead, err := gcm(dataKey)
	if err != nil {
		t.Fatal(err)
	}
	plain = bytes.Repeat([]byte("golden! "), ChunkBytes/8+1)
	body := &sealedBody{header: head, aead: aead, plain: bytes.NewReader(plain), size: int64(len(plain))}
	sealed, err = io.ReadAll(io.NewSectionReader(body, 0, body.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return keys, plain, sealed
}

// unseal reads sealed bytes as Bucket.Get does.
func unseal(keys *Keys, name string, sealed []byte) ([]byte, error) {
	b := &Bucket{keys: keys, opened: map[string]header{}}
	from := io.NopCloser(bytes.NewReader(sealed))
	h, err := b.readHeader(context.Background(), name, from)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(b.open(context.Background(), name, h, from, 0, -1))
}

func TestGolden(t *testing.T) {
	keys, plain, sealed := golden(t)
	path := filepath.Join("testdata", "v1", "object.bin")
	if *update {
		if err := os.WriteFile(path, sealed, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sealed, want) {
		t.Error("other bytes than those of version 1")
	}
	got, err := unseal(keys, "streams/some/object", want)
	if err != nil || !bytes.Equal(got, plain) {
		t.Errorf("read back: %d bytes, %v", len(got), err)
	}
	if size, err := plainSize(int64(len(want))); err != nil || size != int64(len(plain)) {
		t.Errorf("size %d, %v", size, err)
	}
}

// TestDocument holds docs/formats/archive-object.md against the code.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../../../docs/formats/archive-object.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| 0-6 | magic | `" + Magic + "` |",
		fmt.Sprintf("| 7 | version | %d |", Version),
		fmt.Sprintf("| %d-%d | id |", idOffset, wrapOffset-1),
		fmt.Sprintf("| %d-%d | nonce |", wrapOffset, wrapOffset+nonceBytes-1),
		fmt.Sprintf("| %d-%d | data key | %d random bytes", wrapOffset+nonceBytes, crcOffset-1, KeyBytes),
		fmt.Sprintf("| %d-%d | CRC |", crcOffset, HeaderBytes-1),
		fmt.Sprintf("The header has %d bytes", HeaderBytes),
		fmt.Sprintf("%d bytes of the object each", ChunkBytes),
		fmt.Sprintf("%d + *n* + %d × max(1, ⌈*n* / %d⌉)", HeaderBytes, TagBytes, ChunkBytes),
	} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("docs/formats/archive-object.md does not say %q", want)
		}
	}
}

// A body is read in whatever pieces a client library likes, and twice.
func TestSealedBodyIsTheSameHoweverItIsRead(t *testing.T) {
	_, plain, sealed := golden(t)
	keys, _, _ := golden(t)
	dataKey, err := openHeader("streams/some/object", sealed[:HeaderBytes], keys.byID[keys.newest])
	if err != nil {
		t.Fatal(err)
	}
	aead, err := gcm(dataKey)
	if err != nil {
		t.Fatal(err)
	}
	body := &sealedBody{header: sealed[:HeaderBytes], aead: aead, plain: bytes.NewReader(plain), size: int64(len(plain))}
	if err := iotest.TestReader(io.NewSectionReader(body, 0, 2000), sealed[:2000]); err != nil {
		t.Error(err)
	}
	for off := 0; off < len(sealed); off += 30_011 {
		for _, n := range []int{1, 16, 100, ChunkBytes, ChunkBytes + 40, len(sealed)} {
			piece := make([]byte, n)
			got, err := body.ReadAt(piece, int64(off))
			want := sealed[off:min(off+n, len(sealed))]
			if !bytes.Equal(piece[:got], want) || errors.Is(err, io.EOF) != (off+n > len(sealed)) {
				t.Fatalf("%d, %d: %d bytes, %v", off, n, got, err)
			}
		}
	}
}

func TestSizes(t *testing.T) {
	next := int64(0)
	for sealed := int64(0); sealed < 4*sealedChunk; sealed++ {
		size, err := plainSize(sealed)
		if sealed == sealedSize(next) {
			if err != nil || size != next {
				t.Fatalf("%d: %d, %v; want %d", sealed, size, err, next)
			}
			next++
		} else if err == nil {
			t.Fatalf("%d: %d, and no object has that size", sealed, size)
		}
	}
}

func FuzzUnseal(f *testing.F) {
	keys, plain, sealed := golden(f)
	f.Add(sealed[:HeaderBytes], sealed[HeaderBytes:])
	f.Add(sealed[:HeaderBytes], sealed[HeaderBytes:HeaderBytes+sealedChunk])
	f.Add([]byte(Magic), []byte{})
	f.Fuzz(func(t *testing.T, head, chunks []byte) {
		got, err := unseal(keys, "streams/some/object", append(bytes.Clone(head), chunks...))
		switch {
		case err == nil && !bytes.Equal(got, plain):
			t.Fatalf("%d bytes that nobody has put", len(got))
		case err != nil && tidegate.ClassOf(err) != tidegate.Corrupt && tidegate.ClassOf(err) != tidegate.Misuse:
			t.Fatalf("class %q of %v", tidegate.ClassOf(err), err)
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	f.Add("# text\nkey-2026.1 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n")
	f.Add("one two three\n\x00")
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := ParseKeys(text)
		if err == nil && len(keys.byID) == 0 {
			t.Fatal("no error and no key")
		}
	})
}
