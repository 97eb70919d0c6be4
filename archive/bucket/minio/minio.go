package minio

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket/s3api"
)

// Open returns the bucket that cfg, which has an endpoint, describes. It reads files
// and environment, and does not speak with the server. around, where it is not nil,
// is put around the transport: what tests damage.
func Open(_ context.Context, cfg s3api.Config, around func(http.RoundTripper) http.RoundTripper) (*s3api.Bucket, error) {
	cfg = cfg.SetDefaults()
	wrong := func(err error) error {
		return &tidegate.Error{Op: "open archive", Subject: "s3://" + cfg.Bucket, Class: tidegate.Misuse, Err: err}
	}
	endpoint, err := url.Parse(cfg.Endpoint)
	if err != nil {
		return nil, wrong(err)
	}
	transport, err := cfg.Transport()
	if err != nil {
		return nil, err
	}
	var way http.RoundTripper = transport
	if around != nil {
		way = around(transport)
	}
	core, err := minio.NewCore(endpoint.Host, &minio.Options{
		Creds:        credentials.New(&chain{Chain: usual()}),
		Secure:       endpoint.Scheme == "https",
		Transport:    way,
		Region:       cfg.Region, // known, or every bucket would be asked for it first
		BucketLookup: minio.BucketLookupPath,
		MaxRetries:   1,
	})
	if err != nil {
		return nil, wrong(err)
	}
	return s3api.New(&api{bucket: cfg.Bucket, core: core}, cfg), nil
}

// usual are the places where credentials are looked for, in this order.
func usual() credentials.Chain {
	return credentials.Chain{Providers: []credentials.Provider{
		&credentials.EnvAWS{},
		&credentials.EnvMinio{},
		&credentials.FileAWSCredentials{},
		&credentials.IAM{},
	}}
}

// chain refuses where the library would go on as nobody.
type chain struct{ credentials.Chain }

// RetrieveWithCredContext implements [credentials.Provider].
func (c *chain) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	v, err := c.Chain.RetrieveWithCredContext(cc)
	if err == nil && v.AccessKeyID == "" {
		err = errors.New("none of the places that are looked at has any")
	}
	if err != nil {
		return credentials.Value{}, s3api.NoCredentials(err)
	}
	return v, nil
}

// Retrieve implements [credentials.Provider].
func (c *chain) Retrieve() (credentials.Value, error) { return c.RetrieveWithCredContext(nil) }

// Fault implements [s3api.API].
func (a *api) Fault(err error) (s3api.Fault, bool) {
	var r minio.ErrorResponse
	if !errors.As(err, &r) {
		return s3api.Fault{}, false
	}
	return s3api.Fault{Code: r.Code, Message: r.Message, Status: r.StatusCode}, r.StatusCode != 0
}
