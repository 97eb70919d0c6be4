//go:build s3

package agent

import (
	"flag"
	"testing"

	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/minio"
	"github.com/tidegate/tidegate/archive/bucket/s3api/s3test"
)

var servers = flag.String("s3-servers", "", "folder of the programs minio and versitygw")

// TestServers has agents leave a link that is cut, and one that is too slow, for a real
// server's bucket.
func TestServers(t *testing.T) {
	for _, kind := range s3test.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			s := s3test.Start(t, *servers, kind)
			for name, crosses := range map[string]func(*testing.T, bucket.Bucket){"cut": streamCrosses, "slow": slowCrosses} {
				t.Run(name, func(t *testing.T) {
					b, err := minio.Open(t.Context(), s.Bucket(t, name, false), nil)
					if err != nil {
						t.Fatal(err)
					}
					crosses(t, bucket.Retry(b, bucket.RetryConfig{}))
				})
			}
		})
	}
}
