package s3test

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/buckettest"
	"github.com/tidegate/tidegate/archive/bucket/s3api"
)

// Open is how a driver is opened.
type Open func(ctx context.Context, cfg s3api.Config, around func(http.RoundTripper) http.RoundTripper) (*s3api.Bucket, error)

// Run checks a driver against every kind of server in the folder bin: all that
// buckets must do, and what goes wrong with servers.
func Run(t *testing.T, bin string, open Open) {
	for _, kind := range Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			s := Start(t, bin, kind)
			cfg := s.Bucket(t, "archive", false)
			t.Run("bucket", func(t *testing.T) { conforms(t, cfg, open) })
			t.Run("damaged", func(t *testing.T) { damaged(t, s, cfg, open) })
			t.Run("killed", func(t *testing.T) { killed(t, s, cfg, open) })
			t.Run("strangers", func(t *testing.T) { strangers(t, cfg, open) })
			t.Run("locked", func(t *testing.T) { locked(t, s, cfg, open) })
			t.Run("gone", func(t *testing.T) { gone(t, s, cfg, open) }) // the last one
		})
	}
}

func conforms(t *testing.T, cfg s3api.Config, open Open) {
	var places atomic.Int32
	buckettest.Run(t, func(t *testing.T) buckettest.Place {
		cfg := prefix(cfg, int(places.Add(1)))
		return buckettest.Place{
			Open: func(t *testing.T) bucket.Bucket {
				b, err := open(t.Context(), cfg, nil)
				if err != nil {
					t.Fatal(err)
				}
				return b
			},
			Large: s3api.PartBytesMin + 17,
			Page:  cfg.Page,
		}
	})
}
