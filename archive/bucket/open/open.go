package open

import (
	"context"

	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/encrypt"
	"github.com/tidegate/tidegate/archive/bucket/kms"
	"github.com/tidegate/tidegate/archive/bucket/minio"
	"github.com/tidegate/tidegate/archive/bucket/place"
	"github.com/tidegate/tidegate/archive/bucket/s3"
)

// What a configuration says is told by package place.
type (
	Config     = place.Config
	Encryption = place.Encryption
	KMS        = place.KMS
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

// OpenWith is [place.Open] with everything linked.
func OpenWith(ctx context.Context, cfg Config, around Around) (bucket.Bucket, error) {
	return place.Open(ctx, cfg, around, linked())
}

// Keys opens the ring of an archive whose keys a key service opens; nil where it does
// not. It speaks with neither the bucket nor the service.
func Keys(ctx context.Context, cfg Config) (*kms.Ring, error) {
	_, keys, err := place.OpenKeys(ctx, cfg, Around{}, linked())
	ring, _ := keys.(*kms.Ring) // nil of a key file
	return ring, err
}

func linked() place.Linked {
	return place.Linked{
		Drivers: map[string]place.Driver{DriverS3: s3.Open, DriverMinIO: minio.Open},
		KMS: func(ctx context.Context, cfg place.KMS, b bucket.Bucket) (encrypt.Keeper, error) {
			return kms.Open(ctx, cfg, b)
		},
	}
}
