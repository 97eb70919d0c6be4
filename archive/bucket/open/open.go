package open

import (
	"context"
	"errors"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/archive/bucket/encrypt"
	"github.com/tidegate/tidegate/archive/bucket/minio"
	"github.com/tidegate/tidegate/archive/bucket/s3"
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

// Open is [OpenWith] for a command, which nobody holds back.
func Open(ctx context.Context, cfg Config) (bucket.Bucket, error) {
	return OpenWith(ctx, cfg, Around{})
}

// OpenWith returns the bucket that cfg describes. It reads the files that cfg names
// and does not speak with the server: whether there is one shows at the first
// request. A server's bucket gives up requests that stand still and makes those that
// failed transiently again, for [bucket.RetryForDefault].
func OpenWith(ctx context.Context, cfg Config, around Around) (bucket.Bucket, error) {
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
	b, err := driver(ctx, cfg, u, around)
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

// driver opens what speaks with the place, with the rate inside of what tries again.
func driver(ctx context.Context, cfg Config, u *url.URL, around Around) (bucket.Bucket, error) {
	limit := func(b bucket.Bucket) bucket.Bucket {
		if around.Rate == nil {
			return b
		}
		return bucket.Limit(b, around.Rate)
	}
	if u.Scheme == "file" {
		return limit(dir.New(vfs.OS(), filepath.Clean(u.Path))), nil
	}
	where := s3api.Config{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/"), Endpoint: cfg.Endpoint, Region: cfg.Region, CA: cfg.CA}
	open := s3.Open
	if cfg.Driver == DriverMinIO {
		open = minio.Open
	}
	b, err := open(ctx, where, nil)
	if err != nil {
		return nil, err
	}
	return bucket.Retry(limit(bucket.Stall(b, bucket.StallDefault)), bucket.RetryConfig{Failed: around.Failed}), nil
}
