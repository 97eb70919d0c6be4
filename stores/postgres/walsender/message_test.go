package walsender

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"
)

var goldenTime = time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGoldenMessages(t *testing.T) {
	var h [logHeaderBytes]byte
	putLogHeader(&h, 0x16B374D848, 100, 0x16B374E000, goldenTime)
	if want := unhex(t, "64 00000081 77 00000016b374d848 00000016b374e000 0002ea5dbb1f6f35"); !bytes.Equal(h[:], want) {
		t.Errorf("log header\n got %x\nwant %x", h, want)
	}
	var k [keepaliveBytes]byte
	for _, reply := range []bool{true, false} {
		putKeepalive(&k, 0x16B374D848, goldenTime, reply)
		want := unhex(t, "64 00000016 6b 00000016b374d848 0002ea5dbb1f6f35 00")
		if reply {
			want[len(want)-1] = 1
		}
		if !bytes.Equal(k[:], want) {
			t.Errorf("keepalive\n got %x\nwant %x", k, want)
		}
	}
}

func TestParseStatus(t *testing.T) {
	b := unhex(t, "72 0000000000000030 0000000000000020 0000000000000010 0002ea5dbb1f6f35 01")
	got, ping, err := parseStatus(b)
	want := Status{Write: 0x30, Flush: 0x20, Apply: 0x10, At: goldenTime}
	if err != nil || got != want || !ping {
		t.Errorf("got %+v, %t, %v; want %+v, true", got, ping, err, want)
	}
	for _, bad := range [][]byte{b[:33], append(bytes.Clone(b), 0), nil} {
		if _, _, err := parseStatus(bad); !errors.Is(err, errReceiver) {
			t.Errorf("%d bytes: got %v", len(bad), err)
		}
	}
}

func TestParseFeedback(t *testing.T) {
	b := unhex(t, "68 0002ea5dbb1f6f35 00000001 00000002 00000003 00000004")
	got, err := parseFeedback(b)
	want := Feedback{Xmin: 1, XminEpoch: 2, CatalogXmin: 3, CatalogXminEpoch: 4, At: goldenTime}
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, bad := range [][]byte{b[:24], append(bytes.Clone(b), 0)} {
		if _, err := parseFeedback(bad); !errors.Is(err, errReceiver) {
			t.Errorf("%d bytes: got %v", len(bad), err)
		}
	}
}

func FuzzReceiverMessages(f *testing.F) {
	f.Add(unhex(f, "72 0000000000000030 0000000000000020 0000000000000010 0002ea5dbb1f6f35 01"))
	f.Add(unhex(f, "68 0002ea5dbb1f6f35 00000001 00000002 00000003 00000004"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, _, err := parseStatus(b); err == nil {
			if len(b) != statusBytes {
				t.Errorf("took %d bytes", len(b))
			}
			again := binary.BigEndian.AppendUint64(nil, uint64(s.Write))
			again = binary.BigEndian.AppendUint64(again, uint64(s.Flush))
			again = binary.BigEndian.AppendUint64(again, uint64(s.Apply))
			if !bytes.Equal(again, b[1:25]) {
				t.Errorf("%+v of %x", s, b)
			}
		}
		if _, err := parseFeedback(b); err == nil && len(b) != feedbackBytes {
			t.Errorf("took %d bytes", len(b))
		}
	})
}
