package open

import (
	"context"

	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/minio"
	"github.com/tidegate/tidegate/archive/bucket/place"
	"github.com/tidegate/tidegate/archive/bucket/s3"
)

// What a configuration says is told by package place.
type (
	Config     = place.Config
	Encryption = place.Encryption
	Around     = place.Around
)

// The drivers of s3:// addresses.
const (
	DriverS3    = place.DriverS3
	DriverMinIO = place.DriverMinIO
)

// Open is [OpenWith] for a command, which nobody holds back.
func Open(ctx context.Context, cfg Config) (bucket.Bucket, error) {
	return OpenWith(ctx, cfg, Around{})
}

// OpenWith is [place.Open] with every driver.
func OpenWith(ctx context.Context, cfg Config, around Around) (bucket.Bucket, error) {
	return place.Open(ctx, cfg, around, map[string]place.Driver{DriverS3: s3.Open, DriverMinIO: minio.Open})
}
