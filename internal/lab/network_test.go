package lab_test

import (
	"context"
	"testing"
	"time"

	"github.com/tidegate/tidegate/internal/lab"
)

// The sites stand in networks of their own. What a cut drops in one direction
// does not reach the other site, and everything goes on when it is mended.
func TestCut(t *testing.T) {
	s := layOut(t, lab.Plant{Primaries: 1, Networks: true})
	s.up(t)
	for _, from := range []string{lab.SitePrimary, lab.SiteDR} {
		to := map[string]string{lab.SitePrimary: lab.SiteDR, lab.SiteDR: lab.SitePrimary}[from]
		if err := s.Cut(from, to); err != nil {
			t.Fatal(err)
		}
		s.still(t, "transfers to wait for the other site", time.Second)
		if err := s.Mend(from, to); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		s.flows(t, "transfers after the link is back")
		t.Logf("nothing crossed from %s to %s; clients served %s after it was mended", from, to, since(begun))
	}
	s.until(t, "the gate to be safe", func(ctx context.Context) error {
		_, err := s.Tidegate(ctx, "status")
		return err
	})
	s.failover(t)
	s.nothingLost(t)
}
