// Package s3test tests drivers of S3 servers against real ones: it starts MinIO and
// versitygw as processes, kills them, and damages what passes between them and a
// driver. Only tests import it; `make test-s3` builds the servers and runs them.
package s3test
