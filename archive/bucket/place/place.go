package place

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/archive/bucket/encrypt"
	"github.com/tidegate/tidegate/archive/bucket/s3api"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/rates"
	"github.com/tidegate/tidegate/internal/vfs"
)

// Around is what a daemon puts around its archive; the zero value is nothing.
type Around struct {
	Rate   *rates.Limiter                   // nil: no limit
	Failed func(op, name string, err error) // see [bucket.RetryConfig]
}

// Driver opens a server's bucket; it does not speak with the server.
type Driver func(ctx context.Context, cfg s3api.Config, around func(http.RoundTripper) http.RoundTripper) (*s3api.Bucket, error)

// Open returns the bucket that cfg describes, by one of drivers, which are named as
// in [Config]. It reads the files that cfg names and does not speak with the server:
// whether there is one shows at the first request. A server's bucket gives up requests
// that stand still and makes those that failed transiently again, for
// [bucket.RetryForDefault].
func Open(ctx context.Context, cfg Config, around Around, drivers map[string]Driver) (bucket.Bucket, error) {
	cfg = cfg.SetDefaults()
	if cfg.IsZero() {
		return nil, &tidegate.Error{Op: "open archive", Class: tidegate.Misuse, Err: errors.New("none is configured"), Hint: "give it a url"}
	}
	if err := cfg.Validate(); err != nil {
		return nil, config.Refuse("archive", err)
	}
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, err // Validate has parsed it
	}
	var keys *encrypt.Keys
	if cfg.Encryption.KeyFile != "" {
		if keys, err = encrypt.ReadKeys(cfg.Encryption.KeyFile); err != nil {
			return nil, err
		}
	}
	b, err := driven(ctx, cfg, u, around, drivers)
	if err != nil {
		return nil, err
	}
	if keys != nil {
		b = encrypt.New(b, keys)
	}
	if cfg.Lock > 0 {
		b = bucket.Lock(b, cfg.Lock, time.Now)
	}
	return b, nil
}

// driven opens what speaks with the place, with the rate inside of what tries again.
func driven(ctx context.Context, cfg Config, u *url.URL, around Around, drivers map[string]Driver) (bucket.Bucket, error) {
	limit := func(b bucket.Bucket) bucket.Bucket {
		if around.Rate == nil {
			return b
		}
		return bucket.Limit(b, around.Rate)
	}
	if u.Scheme == "file" {
		return limit(dir.New(vfs.OS(), filepath.Clean(u.Path))), nil
	}
	open := drivers[cfg.Driver]
	if open == nil {
		return nil, &tidegate.Error{
			Op: "open archive", Subject: cfg.URL, Class: tidegate.Misuse,
			Err: fmt.Errorf("driver %s is not in this binary: %w", cfg.Driver, tidegate.ErrUnsupported),
		}
	}
	b, err := open(ctx, s3api.Config{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/"), Endpoint: cfg.Endpoint, Region: cfg.Region, CA: cfg.CA}, nil)
	if err != nil {
		return nil, err
	}
	return bucket.Retry(limit(bucket.Stall(b, bucket.StallDefault)), bucket.RetryConfig{Failed: around.Failed}), nil
}
