package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
)

// Where a service becomes active its log reaches what it says then, though its next
// progress is still to come: nobody waits for that, or takes the log for a shorter one.
func TestActivationSaysHowFarTheLogReaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := unproven(t, streamView{}).s
		s.cfg.Service = "ledger"
		s.service, s.changed = &service{leaseChanged: make(chan struct{}, 1), changed: make(chan struct{}, 1)}, make(chan struct{}, 1)
		s.agent.services["ledger"] = s.service
		s.waiters, s.progressed = map[chan struct{}]tidegate.Position{}, make(chan struct{})
		s.lib.known, s.lib.progress.L.Position = true, 50
		if err := s.waitHead(t.Context(), 100, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("before: %v", err)
		}
		got := make(chan error, 1)
		go func() { got <- s.waitHead(t.Context(), 100, time.Hour) }()
		synctest.Wait()
		began := time.Now()
		if err := s.fromLibrary(nil, &local.Activated{L: 100}); err != nil {
			t.Fatal(err)
		}
		if err := <-got; err != nil || time.Since(began) > 0 {
			t.Errorf("who waited: %v after %s", err, time.Since(began))
		}
		if err := s.waitHead(t.Context(), 100, time.Hour); err != nil {
			t.Errorf("after: %v", err)
		}
		if err := s.fromLibrary(nil, &local.Deactivated{}); err != nil {
			t.Fatal(err)
		}
		if h := s.head(); h != 50 {
			t.Errorf("head %s, and what it was while it was active may have been taken back", h)
		}
	})
}
