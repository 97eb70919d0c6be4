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

// KeyService gives the keys of an archive whose own keys lie in b, not encrypted by
// us but under a key of the service; it does not speak with it.
type KeyService func(ctx context.Context, cfg KMS, b bucket.Bucket) (encrypt.Keeper, error)

// Linked is what a binary carries of what a configuration may name.
type Linked struct {
	Drivers map[string]Driver // named as in [Config]
	KMS     KeyService        // nil: none
}

// Open returns the bucket that cfg describes, by what is linked. It reads the files that cfg names and does not speak with the server:
// whether there is one shows at the first request. A server's bucket gives up requests
// that stand still and makes those that failed transiently again, for
// [bucket.RetryForDefault].
func Open(ctx context.Context, cfg Config, around Around, linked Linked) (bucket.Bucket, error) {
	b, keys, err := OpenKeys(ctx, cfg, around, linked)
	if err != nil {
		return nil, err
	}
	if keys != nil {
		b = encrypt.New(b, keys)
	}
	return locked(b, cfg), nil
}

// OpenKeys is Open for whoever looks at an archive's keys: the bucket gives objects as
// they lie there, and what has the keys is beside it, nil where nothing is encrypted.
func OpenKeys(ctx context.Context, cfg Config, around Around, linked Linked) (bucket.Bucket, encrypt.Keeper, error) {
	cfg = cfg.SetDefaults()
	if cfg.IsZero() {
		return nil, nil, &tidegate.Error{Op: "open archive", Class: tidegate.Misuse, Err: errors.New("none is configured"), Hint: "give it a url"}
	}
	if err := cfg.Validate(); err != nil {
		return nil, nil, config.Refuse("archive", err)
	}
	var keys encrypt.Keeper
	if cfg.Encryption.KeyFile != "" {
		read, err := encrypt.ReadKeys(cfg.Encryption.KeyFile)
		if err != nil {
			return nil, nil, err
		}
		keys = read
	}
	b, err := driven(ctx, cfg, around, linked.Drivers)
	if err != nil {
		return nil, nil, err
	}
	if cfg.Encryption.KMS.IsZero() {
		return b, keys, nil
	}
	if linked.KMS == nil {
		return nil, nil, unsupported(cfg, "encryption by a key service")
	}
	keys, err = linked.KMS(ctx, cfg.Encryption.KMS, locked(b, cfg))
	return b, keys, err
}

// locked has what is written once be locked, where that is configured.
func locked(b bucket.Bucket, cfg Config) bucket.Bucket {
	if cfg.Lock == 0 {
		return b
	}
	return bucket.Lock(b, cfg.Lock, time.Now)
}

func unsupported(cfg Config, what string) error {
	return &tidegate.Error{
		Op: "open archive", Subject: cfg.URL, Class: tidegate.Misuse,
		Err: fmt.Errorf("%s is not in this binary: %w", what, tidegate.ErrUnsupported),
	}
}

// driven opens what speaks with the place, with the rate inside of what tries again.
func driven(ctx context.Context, cfg Config, around Around, drivers map[string]Driver) (bucket.Bucket, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, err // Validate has parsed it
	}
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
		return nil, unsupported(cfg, "driver "+cfg.Driver)
	}
	b, err := open(ctx, s3api.Config{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/"), Endpoint: cfg.Endpoint, Region: cfg.Region, CA: cfg.CA}, nil)
	if err != nil {
		return nil, err
	}
	return bucket.Retry(limit(bucket.Stall(b, bucket.StallDefault)), bucket.RetryConfig{Failed: around.Failed}), nil
}
