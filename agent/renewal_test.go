package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/stores"
)

// wellLog is a source that finds nothing wrong with its log.
type wellLog struct{ stores.Renewable }

func (wellLog) Lost() error { return nil }

// writtenHere is a view of a stream that n1 at east writes in epoch 3.
func writtenHere() streamView {
	n1 := fence.Holder{Node: "n1", Site: "east"}
	return streamView{id: tidegate.NewID(), rec: fence.EpochRecord{State: fence.StateActive, Epoch: 3, ActiveEpoch: 3, Holder: n1, Active: n1, Version: fence.EpochRecordVersion}}
}

// What the source cannot give, a record that no batch carries or log that is gone, has
// the agent ask for a new generation, by the command; anything else is tried again.
func TestLogThatCannotBeReadAsksForANewGeneration(t *testing.T) {
	s := unproven(t, writtenHere()).s
	s.source, s.cfg.Service, s.cfg.Stream = wellLog{}, "ledger", "main"
	for err, want := range map[error]bool{
		fmt.Errorf("read log at 0/40: a record of more than 67108864 bytes: %w", tidegate.ErrUnsupported): true,
		fmt.Errorf("read log at 0/40: %w", stores.ErrTrimmed):                                             true,
		errors.New("connection refused"):                                                                  false,
	} {
		s.miss(err)
		lost := s.lost()
		if (lost != nil) != want {
			t.Errorf("%v: lost: %v", err, lost)
		}
		if f := s.lostFinding(err); want && (!strings.Contains(f.Hint, "gap accept ledger/main") || !strings.Contains(f.Text, err.Error())) {
			t.Errorf("%v: %+v", err, f)
		}
		s.miss(nil)
		if lost := s.lost(); lost != nil {
			t.Errorf("it is read again: %v", lost)
		}
	}
}

// How long a generation is being opened counts from its declaration, through as many
// epochs as it takes, until it counts; and from the start anew for the next one.
func TestOpeningIsTimed(t *testing.T) {
	clk := clock.NewFake(time.Unix(1000, 0))
	v := writtenHere()
	w := unproven(t, v)
	s := w.s
	s.agent.clk, s.source = clk, wellLog{}
	want := func(what string, d time.Duration) {
		t.Helper()
		if got := s.openingFor(w); got != d {
			t.Errorf("%s: opening for %s, want %s", what, got, d)
		}
	}
	declare := func(epoch tidegate.Epoch) {
		s.view.renewal = declaration{epoch: epoch, site: "east", node: "n1"}
		s.noteRenewal()
	}
	term := func(epoch tidegate.Epoch, first tidegate.Seq, opens bool) {
		s.view.rec.Epoch, s.view.rec.ActiveEpoch = epoch, epoch
		s.noteRenewal()
		w.entry, w.ring = 0, newRing(1<<20, facts{seq: first - 1})
		if opens {
			w.entry = first
		}
		s.noteOpening(opens)
	}
	want("nothing is declared", 0)
	declare(3)
	clk.Advance(time.Minute)
	want("it is declared", time.Minute)
	term(4, 10, true)
	clk.Advance(time.Minute)
	want("its epoch is open", 2*time.Minute)
	term(5, 10, true)
	clk.Advance(time.Minute)
	want("and the next", 3*time.Minute)
	w.ring.durable.seq = 10
	want("it counts", 0)
	declare(5)
	clk.Advance(time.Second)
	want("another is declared", time.Second)
	term(6, 11, true)
	w.ring.durable.seq = 11
	term(7, 12, false)
	term(8, 12, true) // declared by whom this process never saw
	clk.Advance(time.Second)
	want("opened by a new process", time.Second)
}
