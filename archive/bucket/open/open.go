package open

import (
	"context"
	"errors"
	"net/url"
	"path/filepath"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/vfs"
)

// Open returns the bucket that cfg describes. It reads the files that cfg names and
// does not speak with the server: whether there is one shows at the first request.
func Open(_ context.Context, cfg Config) (bucket.Bucket, error) {
	cfg = cfg.SetDefaults()
	if cfg.IsZero() {
		return nil, &tidegate.Error{Op: "open archive", Class: tidegate.Misuse, Err: errors.New("none is configured"), Hint: "give it a url"}
	}
	if err := cfg.Validate(); err != nil {
		return nil, config.Refuse("archive", err)
	}
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, err
	}
	switch {
	case cfg.Encryption.KeyFile != "", cfg.Lock != 0, u.Scheme != "file":
		return nil, &tidegate.Error{Op: "open archive", Subject: cfg.URL, Class: tidegate.Misuse, Err: tidegate.ErrUnsupported}
	}
	return dir.New(vfs.OS(), filepath.Clean(u.Path)), nil
}
