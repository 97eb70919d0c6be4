package s3

import (
	"context"
	"errors"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"

	"github.com/tidegate/tidegate"
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
	options := []func(*awsconfig.LoadOptions) error{
		awsconfig.WithLogger(logging.Nop{}), // it is told by errors, and not beside the daemon's log
		awsconfig.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
		// We send a checksum with every part ourselves; more than that is what other
		// servers stumble over.
		awsconfig.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenRequired),
		awsconfig.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired),
	}
	if cfg.Region != "" {
		options = append(options, awsconfig.WithRegion(cfg.Region))
	}
	loaded, err := awsconfig.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, &tidegate.Error{Op: "open archive", Subject: "s3://" + cfg.Bucket, Class: tidegate.Misuse, Err: err}
	}
	if loaded.Region == "" {
		return nil, &tidegate.Error{
			Op: "open archive", Subject: "s3://" + cfg.Bucket, Class: tidegate.Misuse, Err: errors.New("the region is not known"),
			Hint: "set archive.region, or AWS_REGION, or region in the shared file",
		}
	}
	loaded.Credentials = aws.NewCredentialsCache(chain{loaded.Credentials})
	a := &api{bucket: cfg.Bucket, s3: s3.NewFromConfig(loaded, func(o *s3.Options) {
		o.HTTPClient = client
		if cfg.Endpoint != "" {
			o.BaseEndpoint = aws.String(cfg.Endpoint)
			o.UsePathStyle = true // names of buckets are in nobody's DNS there
		}
	})}
	return s3api.New(a, cfg), nil
}

// chain makes the error of a chain that has nothing one that an operator can read.
type chain struct{ aws.CredentialsProvider }

func (c chain) Retrieve(ctx context.Context) (aws.Credentials, error) {
	v, err := c.CredentialsProvider.Retrieve(ctx)
	if err != nil && ctx.Err() == nil {
		err = s3api.NoCredentials(err)
	}
	return v, err
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
