// Package buckettest is the conformance suite of bucket.Bucket: what every driver
// must do, against the place that it really speaks with.
package buckettest
