package batch_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
)

func TestControlPayloads(t *testing.T) {
	lineage := batch.Lineage{Lineage: "journal:1+b@2", Previous: "journal:1"}
	handover := batch.Handover{Holder: tidegate.HolderID{1}, StateKnown: true, StateDigest: tidegate.Digest{2}, Reason: "maintenance"}
	gap := batch.Gap{RecordsKnown: true, Records: 12, Reason: "spool full"}
	tests := map[string]struct {
		payload []byte
		parse   func([]byte) (any, error)
		want    any
	}{
		"lineage":          {mustPayload(lineage.Append(nil)), func(b []byte) (any, error) { return batch.ParseLineage(b) }, lineage},
		"lineage, first":   {mustPayload(batch.Lineage{Lineage: "x"}.Append(nil)), func(b []byte) (any, error) { return batch.ParseLineage(b) }, batch.Lineage{Lineage: "x"}},
		"handover":         {mustPayload(handover.Append(nil)), func(b []byte) (any, error) { return batch.ParseHandover(b) }, handover},
		"handover, bare":   {mustPayload(batch.Handover{Holder: tidegate.HolderID{1}}.Append(nil)), func(b []byte) (any, error) { return batch.ParseHandover(b) }, batch.Handover{Holder: tidegate.HolderID{1}}},
		"gap":              {mustPayload(gap.Append(nil)), func(b []byte) (any, error) { return batch.ParseGap(b) }, gap},
		"gap, count known": {mustPayload(batch.Gap{RecordsKnown: true, Reason: "r"}.Append(nil)), func(b []byte) (any, error) { return batch.ParseGap(b) }, batch.Gap{RecordsKnown: true, Reason: "r"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := tt.parse(tt.payload)
			if err != nil || got != tt.want {
				t.Fatalf("got %+v, %v, want %+v", got, err, tt.want)
			}
			var damage *tidegate.CorruptError
			for n := range len(tt.payload) {
				if _, err := tt.parse(tt.payload[:n]); !errors.As(err, &damage) {
					t.Errorf("cut at %d: %v", n, err)
				}
			}
			if _, err := tt.parse(append(bytes.Clone(tt.payload), 0)); !errors.As(err, &damage) {
				t.Errorf("junk behind: %v", err)
			}
			newer := bytes.Clone(tt.payload)
			newer[0] = 2
			if _, err := tt.parse(newer); !errors.Is(err, tidegate.ErrUnsupported) {
				t.Errorf("newer version: %v", err)
			}
		})
	}
}

func mustPayload(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestControlPayloadsRefuse(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for name, err := range map[string]error{
		"empty lineage":        errOf(batch.Lineage{}.Append(nil)),
		"long lineage":         errOf(batch.Lineage{Lineage: tidegate.Lineage(long)}.Append(nil)),
		"no holder":            errOf(batch.Handover{}.Append(nil)),
		"digest not known":     errOf(batch.Handover{Holder: tidegate.HolderID{1}, StateDigest: tidegate.Digest{1}}.Append(nil)),
		"long reason":          errOf(batch.Handover{Holder: tidegate.HolderID{1}, Reason: long}.Append(nil)),
		"gap without a reason": errOf(batch.Gap{}.Append(nil)),
		"records not known":    errOf(batch.Gap{Records: 3, Reason: "r"}.Append(nil)),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func errOf(_ []byte, err error) error { return err }
