package s3

import (
	"context"
	"errors"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"github.com/tidegate/tidegate/archive/bucket/awschain"
	"github.com/tidegate/tidegate/archive/bucket/s3api"
)

// Open returns the bucket that cfg describes. It reads files and environment, and
// does not speak with the server. around, where it is not nil, is put around the
// transport: what tests damage.
func Open(ctx context.Context, cfg s3api.Config, around func(http.RoundTripper) http.RoundTripper) (*s3api.Bucket, error) {
	cfg = cfg.SetDefaults()
	transport, err := cfg.Transport()
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: transport}
	if around != nil {
		client.Transport = around(transport)
	}
	loaded, err := awschain.Load(ctx, "s3://"+cfg.Bucket, cfg.Region, "archive.region")
	if err != nil {
		return nil, err
	}
	// We send a checksum with every part ourselves; more than that is what other
	// servers stumble over.
	loaded.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
	loaded.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	a := &api{bucket: cfg.Bucket, s3: s3.NewFromConfig(loaded, func(o *s3.Options) {
		o.HTTPClient = client
		if cfg.Endpoint != "" {
			o.BaseEndpoint = aws.String(cfg.Endpoint)
			o.UsePathStyle = true // names of buckets are in nobody's DNS there
		}
	})}
	return s3api.New(a, cfg), nil
}

// Fault implements [s3api.API].
func (a *api) Fault(err error) (s3api.Fault, bool) {
	var f s3api.Fault
	var status interface{ HTTPStatusCode() int }
	var coded smithy.APIError
	isStatus, isCoded := errors.As(err, &status), errors.As(err, &coded)
	if isStatus {
		f.Status = status.HTTPStatusCode()
	}
	if isCoded {
		f.Code, f.Message = coded.ErrorCode(), coded.ErrorMessage()
	}
	// A request that got no answer also has a status here: none.
	return f, isCoded || f.Status != 0
}
