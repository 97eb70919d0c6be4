package shipper

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/wire"
	"github.com/tidegate/tidegate/snapshot"
)

var update = flag.Bool("update", false, "rewrite the golden bytes of a version that is not released")

// message is one message of each kind with every field set.
type message struct {
	name  string
	typ   wire.Type
	body  []byte
	again func([]byte) ([]byte, error) // parse and append
}

func id(b byte) (v [16]byte) {
	for i := range v {
		v[i] = b + byte(i)
	}
	return v
}

func again[T any](parse func([]byte) (T, error), appendTo func(T, []byte) []byte) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) {
		v, err := parse(b)
		if err != nil {
			return nil, err
		}
		return appendTo(v, nil), nil
	}
}

func messages(t testing.TB) []message {
	t.Helper()
	sealed, header, err := batch.NewSealer(batch.CodecNone).Seal(nil, batch.Header{
		Kind: batch.KindData, Records: 2, Stream: id(1), Epoch: 3, Seq: 9, First: 100, Next: 104, Head: 120, Generation: 1, OldestTime: 5, NewestTime: 6,
	}, id(2), []byte("four"))
	if err != nil {
		t.Fatal(err)
	}
	var names interner
	parseAttachAck := func(b []byte) (fence.Ack, error) { return parseAck(b, &names) }
	pos := func(n byte) tidegate.LogPos {
		return tidegate.LogPos{Epoch: tidegate.Epoch(n), Seq: tidegate.Seq(n) + 1, Chain: id(n)}
	}
	return []message{
		{"hello", typeHello, hello{1, 2, []string{"lanes"}}.append(nil), again(parseHello, func(h hello, b []byte) []byte { return h.append(b) })},
		{"welcome", typeWelcome, welcome{1, "dr1", []string{"lanes"}}.append(nil), again(parseWelcome, func(w welcome, b []byte) []byte { return w.append(b) })},
		{
			"attach", typeAttach,
			Attach{Stream: id(1), As: AsRelay, Epoch: 3, Holder: id(4), From: 5, Members: []fence.Member{{Node: "dr1", Incarnation: id(6)}, {Node: "dr2", Incarnation: id(7)}}}.append(nil),
			again(parseAttach, func(a Attach, b []byte) []byte { return a.append(b) }),
		},
		{
			"attached", typeAttached,
			Attached{
				Node: "dr1", Incarnation: id(6), Promise: fence.Promise{Epoch: 3, Holder: id(4)}, Durable: pos(7), Received: pos(8), Commit: 6,
				Adopted: fence.Term{Epoch: 2, StartSeq: 5, Holder: id(9)},
				Begin:   Begin{Before: pos(3), Position: 77, Generation: 2, Opened: 1, Lineage: "pg:7:1"},
				Credit:  1 << 20, Tail: []batch.Header{header},
			}.append(nil),
			again(parseAttached, func(a Attached, b []byte) []byte { return a.append(b) }),
		},
		{
			"refusal", typeRefusal,
			(&Refusal{Code: CodeFenced, Class: tidegate.Fenced, Message: "promised 4", Hint: "look", Promise: fence.Promise{Epoch: 4, Holder: id(5)}}).append(nil),
			again(parseRefusal, func(r *Refusal, b []byte) []byte { return r.append(b) }),
		},
		{"batch", typeBatch, sealed, nil},
		{"header", typeHeader, sealed[:batch.HeaderSize], again(batch.ParseHeader, func(h batch.Header, b []byte) []byte { return h.Append(b) })},
		{
			"ack", typeAck,
			appendAck(nil, fence.Ack{Node: "dr2", Incarnation: id(7), Epoch: 3, Received: 12, Durable: 11, Stored: 12, Chain: id(8), Applied: 10, AppliedAt: 99, Stamp: 1<<32 | 9}),
			again(parseAttachAck, func(a fence.Ack, b []byte) []byte { return appendAck(b, a) }),
		},
		{"commit", typeCommit, wire.AppendU64(nil, 11), nil},
		{
			"beacon", typeBeacon,
			Beacon{Epoch: 3, Generation: 1, AKnown: true, A: 1, L: 3, D: 2, Boot: 44, Wall: time.Unix(5, 6), Exposed: 9, OffsetKnown: true, Offset: -7, OffsetErr: 8, Lease: LeaseAsk{TTL: 5 * time.Second, Seqno: 13}}.append(nil),
			again(parseBeacon, func(k Beacon, b []byte) []byte { return k.append(b) }),
		},
		{"credit", typeCredit, wire.AppendI64(nil, 1<<21), nil},
		{"time-request", typeTimeRequest, wire.AppendI64(wire.AppendI64(wire.AppendI64(wire.AppendBool(wire.AppendI64(nil, 1), true), 2), 3), 4), nil},
		{"time-reply", typeTimeReply, wire.AppendI64(wire.AppendI64(wire.AppendI64(wire.AppendI64(nil, 1), 2), 3), 4), nil},
		{
			"lease-grant", typeLeaseGrant,
			LeaseGrant{Node: "dr2", Incarnation: id(7), Epoch: 3, TTL: 5 * time.Second, Seqno: 13}.append(nil),
			again(parseLeaseGrant, func(g LeaseGrant, b []byte) []byte { return g.append(b) }),
		},
		{
			"feedback", typeFeedback,
			Feedback{Node: "dr2", Incarnation: id(7), Epoch: 3, Opaque: "\x00opaque"}.append(nil),
			again(parseFeedback, func(f Feedback, b []byte) []byte { return f.append(b) }),
		},
		{"close", typeClose, wire.AppendString(nil, "node is stopping"), nil},
		{
			"base-attach", typeBaseAttach,
			BaseAttach{Stream: id(1), Way: BasePush, Generation: 2, Promise: fence.Promise{Epoch: 3, Holder: id(4)}}.append(nil),
			again(parseBaseAttach, func(a BaseAttach, b []byte) []byte { return a.append(b) }),
		},
		{
			"base-pick", typeBaseAttach,
			BaseAttach{Stream: id(1), Way: BasePick, Generation: 2, Name: snapshot.Name{9, 31: 8}}.append(nil),
			again(parseBaseAttach, func(a BaseAttach, b []byte) []byte { return a.append(b) }),
		},
		{
			"base-attached", typeBaseAttached,
			BaseAttached{Node: "dr1", Incarnation: id(6), Generation: 2, Opened: 3, Held: true}.append(nil),
			again(parseBaseAttached, func(a BaseAttached, b []byte) []byte { return a.append(b) }),
		},
		{
			"base-offer", typeBaseOffer, appendOffer(nil, 5, 6, anExtent()),
			again(parseOffer, func(o baseOffer, b []byte) []byte { return appendOffer(b, o.number, o.place, o.extent()) }),
		},
		{"base-need", typeBaseNeed, appendNeed(nil, 5, snapshot.Need{2}), func(b []byte) ([]byte, error) {
			number, need, err := parseNeed(b)
			return appendNeed(nil, number, need), err
		}},
		{"base-pages", typeBasePages, append(wire.AppendU8(wire.AppendU32(nil, 5), uint8(snapshot.Plain)), "page"...), func(b []byte) ([]byte, error) {
			number, p, err := parsePages(b)
			return append(wire.AppendU8(wire.AppendU32(nil, number), uint8(p.Encoding)), p.Stored...), err
		}},
		{"base-total", typeBaseTotal, wire.AppendI64(nil, 1<<33), nil},
		{"base-manifest", typeBaseManifest, append(wire.AppendU64(wire.AppendU64(nil, 9), 5), "rest"...), func(b []byte) ([]byte, error) {
			m, err := parseManifestPart(b)
			return append(wire.AppendU64(wire.AppendU64(nil, m.total), m.offset), m.bytes...), err
		}},
		{"base-committed", typeBaseCommitted, bytes.Repeat([]byte{7}, nameBytes), nil},
	}
}

func anExtent() *snapshot.Extent {
	var x snapshot.Extent
	x.Cut(bytes.Repeat([]byte("b"), snapshot.PageBytes+1))
	return &x
}

// The bytes of version 1 never change.
func TestGoldenBytes(t *testing.T) {
	for _, m := range messages(t) {
		t.Run(m.name, func(t *testing.T) {
			path := filepath.Join("testdata", "v1", m.name+".hex")
			got := hex.Dump(wire.AppendFrame(nil, m.typ, m.body))
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMessagesDecodeStrictly(t *testing.T) {
	for _, m := range messages(t) {
		if m.again == nil {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			b, err := m.again(m.body)
			if err != nil || !bytes.Equal(b, m.body) {
				t.Fatalf("decoded and encoded to % x, %v", b, err)
			}
			switch m.name {
			case "header", "base-pages", "base-manifest":
				return // what follows is a payload, as long as the frame is
			}
			for i := range m.body {
				if _, err := m.again(m.body[:i]); err == nil {
					t.Fatalf("cut at %d was accepted", i)
				}
			}
			if _, err := m.again(append(bytes.Clone(m.body), 0)); err == nil {
				t.Error("a trailing byte was accepted")
			}
		})
	}
}

func FuzzMessages(f *testing.F) {
	all := messages(f)
	for i, m := range all {
		f.Add(uint8(i), m.body)
	}
	f.Fuzz(func(t *testing.T, i uint8, b []byte) {
		m := all[int(i)%len(all)]
		if m.again == nil {
			return
		}
		out, err := m.again(b)
		if err == nil && !bytes.HasPrefix(b, out) {
			t.Fatalf("%s: % x decodes, and encodes to % x", m.name, b, out)
		}
	})
}

func TestRefusalCrossesWithItsClassAndSentinel(t *testing.T) {
	for name, tc := range map[string]struct {
		err   error
		code  Code
		class tidegate.Class
		is    error
	}{
		"fenced":   {tidegate.ErrFenced, CodeFenced, tidegate.Fenced, tidegate.ErrFenced},
		"diverged": {fmt.Errorf("x: %w", tidegate.ErrDiverged), CodeDiverged, tidegate.Permanent, tidegate.ErrDiverged},
		"gap":      {tidegate.ErrGap, CodeGap, tidegate.Permanent, tidegate.ErrGap},
		"full":     {&tidegate.Error{Op: "append", Class: tidegate.Transient, Hint: "make room", Err: tidegate.ErrFull}, CodeFull, tidegate.Transient, tidegate.ErrFull},
		"corrupt":  {fmt.Errorf("y: %w", &tidegate.CorruptError{Path: "p", Offset: -1, What: "w"}), CodeCorrupt, tidegate.Corrupt, nil},
		"unknown":  {os.ErrPermission, CodeInternal, tidegate.Transient, nil},
		"refusal":  {Refuse(CodeLimbo, "z"), CodeLimbo, tidegate.Transient, ErrLimbo},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := parseRefusal(RefusalOf(tc.err).append(nil))
			if err != nil {
				t.Fatal(err)
			}
			got := r.arrived("attach", "dr1")
			if r.Code != tc.code || tidegate.ClassOf(got) != tc.class || tidegate.HintOf(got) != tidegate.HintOf(tc.err) {
				t.Errorf("%s, %s, hint %q", r.Code, tidegate.ClassOf(got), tidegate.HintOf(got))
			}
			if tc.is != nil && !strings.Contains(got.Error(), tc.code.String()) {
				t.Errorf("text %q", got)
			}
		})
	}
	newer := &Refusal{Code: 200, Class: tidegate.Transient, Message: "from the future"}
	r, err := parseRefusal(newer.append(nil))
	if err != nil || r.Code != 200 || r.Unwrap() != nil {
		t.Errorf("code of a newer version: %+v, %v", r, err)
	}
}

func TestLimitsReportEveryMistake(t *testing.T) {
	if err := (Limits{}).SetDefaults().Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	err := Limits{BatchBytesMax: 1, PendingBytesMax: 1, ConnectionsMax: -1, CreditBytes: 1, KeepaliveEvery: -1, IdleTimeout: -10, HandshakeTimeout: -1}.Validate()
	for _, key := range []string{"batch_bytes_max", "pending_bytes_max", "connections_max", "credit_bytes", "keepalive_every", "idle_timeout", "handshake_timeout"} {
		if err == nil || !strings.Contains(err.Error(), key+": ") {
			t.Errorf("%s is not reported in: %v", key, err)
		}
	}
}

// The document quotes the numbers that are on the wire.
func TestDocumentHasTheTypesAndCodes(t *testing.T) {
	b, err := os.ReadFile("../docs/formats/ship.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile(`(?m)^\| (\d+) \| ([a-z-]+) \|`)
	got := map[string]bool{}
	for _, m := range row.FindAllStringSubmatch(string(b), -1) {
		got[m[1]+" "+m[2]] = true
	}
	want := map[string]bool{}
	for _, m := range messages(t) {
		if m.name == "base-pick" { // a way of base-attach
			continue
		}
		want[fmt.Sprintf("%d %s", m.typ, m.name)] = true
	}
	for c := CodeInternal; int(c) < len(codes); c++ {
		want[fmt.Sprintf("%d %s", c, c)] = true
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want in the document -, is there +\n%s", diff)
	}
}
