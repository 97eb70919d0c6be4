package awschain

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/logging"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket/s3api"
)

// Load reads files and environment for subject, and speaks with nobody. An empty region
// is the one that the library finds; key is what names the region in our configuration.
// Its errors are classified, also those that the credentials give later.
func Load(ctx context.Context, subject, region, key string) (aws.Config, error) {
	options := []func(*awsconfig.LoadOptions) error{
		awsconfig.WithLogger(logging.Nop{}), // it is told by errors, and not beside the daemon's log
		awsconfig.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
	}
	if region != "" {
		options = append(options, awsconfig.WithRegion(region))
	}
	loaded, err := awsconfig.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return aws.Config{}, &tidegate.Error{Op: "open archive", Subject: subject, Class: tidegate.Misuse, Err: err}
	}
	if loaded.Region == "" {
		return aws.Config{}, &tidegate.Error{
			Op: "open archive", Subject: subject, Class: tidegate.Misuse, Err: errors.New("the region is not known"),
			Hint: "set " + key + ", or AWS_REGION, or region in the shared file",
		}
	}
	loaded.Credentials = aws.NewCredentialsCache(chain{loaded.Credentials})
	return loaded, nil
}

// chain makes the error of a chain that has nothing one that an operator can read.
type chain struct{ aws.CredentialsProvider }

// Retrieve implements [aws.CredentialsProvider].
func (c chain) Retrieve(ctx context.Context) (aws.Credentials, error) {
	v, err := c.CredentialsProvider.Retrieve(ctx)
	if err != nil && ctx.Err() == nil {
		err = s3api.NoCredentials(err)
	}
	return v, err
}
