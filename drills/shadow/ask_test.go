package shadow

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/internal/clock"
)

// TestCanaryCutOff: a canary has failed when the clone did not take it in time or ended,
// and not when the drill was called off meanwhile; one that had no answer yet says no more.
func TestCanaryCutOff(t *testing.T) {
	for name, tc := range map[string]struct {
		cause   error
		outcome evidence.CheckOutcome
	}{
		"by the clone":    {cloneError{errors.New("the program ended")}, evidence.CheckFailed},
		"by its operator": {context.Canceled, evidence.CheckUnknown},
		"for harm":        {harmError{errors.New("behind")}, evidence.CheckUnknown},
		"by a signal":     {errors.New("interrupt signal received"), evidence.CheckUnknown},
	} {
		for _, answers := range []int{0, 1} {
			ctx, call := context.WithCancelCause(t.Context())
			asked := 0
			clone := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if asked++; asked > answers {
					call(tc.cause)
					<-r.Context().Done() // no answer before the asker has gone
				}
				http.Error(w, "not active", http.StatusServiceUnavailable)
			}))
			b := &sandbox{values: map[string]string{"{address:http}": strings.TrimPrefix(clone.URL, "http://")}}
			k := &asker{clk: clock.System(), b: b, http: b.client()}
			got, err := k.canary(ctx, &Canary{Name: "one", Write: Ask{Timeout: time.Minute, HTTP: &HTTP{Method: http.MethodPost, URL: "http://{address:http}/", Status: http.StatusOK}}})
			k.http.CloseIdleConnections()
			clone.Close()
			if got.Outcome != tc.outcome || !errors.Is(err, tc.cause) || strings.Contains(got.Why+err.Error(), "%!") || strings.Contains(got.Why, "not active") != (answers > 0) {
				t.Errorf("%s after %d answers: %+v, %v", name, answers, got, err)
			}
		}
	}
}

// TestBothOutputs: what a command says on either comes into one answer.
func TestBothOutputs(t *testing.T) {
	s, _ := inScratch(t)
	b, err := s.make(&Config{Service: "bank"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	k := &asker{clk: clock.System(), b: b}
	script := "i=0; while [ $i -lt 50 ]; do echo out$i; echo err$i >&2; i=$((i+1)); done | cat"
	for _, last := range []string{"out49", "err49"} {
		if got, err := k.ask(t.Context(), &Ask{Timeout: time.Minute, Command: &Command{Run: []string{"/bin/sh", "-c", script}, Contains: last}}); err != nil {
			t.Errorf("%s: %q, %v", last, got, err)
		}
	}
}
