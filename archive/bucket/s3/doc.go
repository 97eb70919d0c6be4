// Package s3 is the driver for S3 by Amazon's own library, aws-sdk-go-v2; it also
// speaks with other servers that have an endpoint. What it promises is in packages
// bucket and s3api.
//
// Credentials come from the library's chain only: environment, shared files, web
// identity, the container's or the machine's role.
package s3
