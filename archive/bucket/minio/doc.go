// Package minio is the driver for any S3 server by minio-go, which sends less that
// is Amazon's own: what is sent is checked by the SHA-256 that the request is signed
// with. What it promises is in packages bucket and s3api.
//
// Credentials come from the environment (AWS_ACCESS_KEY_ID and so on, else
// MINIO_ACCESS_KEY or MINIO_ROOT_USER), the shared file of AWS, or the machine's role.
package minio
