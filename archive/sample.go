package archive

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate/internal/clock"
)

// What a sample fetches: enough for a rate, little enough not to be waited for.
const (
	samplePart  = 2 << 20
	sampleParts = 4
	sampleMin   = 1 << 20
)

// Sample fetches some of the newest segments, several parts at a time as a restore
// does, and returns how many bytes a second came; known is false where there is too
// little to tell by.
func (s *Stream) Sample(ctx context.Context, clk clock.Clock) (rate float64, known bool, err error) {
	began := clk.Boot()
	var total int64
	g, gctx := errgroup.WithContext(ctx)
	for i := len(s.Branch.Segments) - 1; i >= 0 && total < samplePart*sampleParts; i-- {
		seg := s.Branch.Segments[i]
		for off := int64(0); off < s.sizes[seg] && total < samplePart*sampleParts; off += samplePart {
			n := min(samplePart, s.sizes[seg]-off)
			total += n
			g.Go(func() error {
				_, err := getRange(gctx, s.b, s.name(seg), off, n)
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return 0, false, err
	}
	took := time.Duration(clk.Boot() - began)
	if total < sampleMin || took <= 0 {
		return 0, false, nil
	}
	return float64(total) / took.Seconds(), true, nil
}

// String names the archive that the stream is in, for people.
func (s *Stream) String() string { return s.b.String() }
