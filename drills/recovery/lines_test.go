package recovery_test

import (
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/recovery"
)

func TestParseOutputs(t *testing.T) {
	text := `{"id":"main/0000000000000010/0","epoch":"2","text":"a","sent":1}

{"sent":2,"text":"a","id":"main/0000000000000010/0"}
{"id":"main/0000000000000020/1","text":"b","sent":1}`
	out, err := recovery.ParseOutputs([]byte(text), "sent")
	if err != nil || len(out) != 3 {
		t.Fatal(out, err)
	}
	if out[0].Epoch != 2 || out[1].Epoch != 0 || out[0].Digest != out[1].Digest || out[0].Digest == out[2].Digest || out[2].ID.String() != "main/0000000000000020/1" {
		t.Errorf("%+v", out)
	}
	for line, want := range map[string]string{
		`{"text":"a"}`:              "outputs: line 1: it has no id",
		`{"id":"main/10/0"}`:        "outputs: line 1: ",
		`5 events`:                  "outputs: line 1: ",
		text + "\n" + `{"id":null}`: "outputs: line 5: it has no id",
		`{"id":"main/0000000000000010/0"} {"id":1}`: "outputs: line 1: ",
	} {
		if out, err := recovery.ParseOutputs([]byte(line)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, %v, want %q", line, out, err, want)
		}
	}
}

// TestBetween: what lies before the golden begins, or behind the cut, is not compared.
func TestBetween(t *testing.T) {
	at := func(stream tidegate.StreamName, inputs ...tidegate.Position) (out []recovery.Output) {
		for _, i := range inputs {
			out = append(out, recovery.Output{ID: recovery.ID{Stream: stream, Input: i}})
		}
		return out
	}
	all := append(at("a", 1, 2, 3, 4), at("b", 1, 9)...)
	got := recovery.Between(all, at("a", 3, 2), map[tidegate.StreamName]tidegate.Position{"a": 4})
	if len(got) != 4 || got[0].ID.Input != 2 || got[1].ID.Input != 3 || got[2].ID.Stream != "b" {
		t.Errorf("%+v", got)
	}
	if got := recovery.Between(all, nil, nil); len(got) != len(all) {
		t.Errorf("%+v", got)
	}
}
