//go:build s3

package s3_test

import (
	"flag"
	"testing"

	"github.com/tidegate/tidegate/archive/bucket/s3"
	"github.com/tidegate/tidegate/archive/bucket/s3api/s3test"
)

var servers = flag.String("s3-servers", "", "folder of the programs minio and versitygw")

func TestServers(t *testing.T) { s3test.Run(t, *servers, s3.Open) }
