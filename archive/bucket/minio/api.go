package minio

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"iter"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/tidegate/tidegate/archive/bucket/s3api"
)

// api implements [s3api.API].
type api struct {
	bucket string
	core   *minio.Core
}

func match(o *minio.PutObjectOptions, c s3api.Conditions) {
	if c.IfAbsent {
		o.SetMatchETagExcept("*")
	}
	if c.IfMatch != "" {
		o.SetMatchETag(c.IfMatch)
	}
}

func lock(o *minio.PutObjectOptions, c s3api.Conditions) {
	if !c.RetainUntil.IsZero() {
		o.Mode, o.RetainUntilDate = minio.Compliance, c.RetainUntil
	}
}

// checksum reads a body through, which is then sent from its start: the server
// refuses what is not the same.
func checksum(body *io.SectionReader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, body); err != nil {
		return "", err
	}
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Put implements [s3api.API].
func (a *api) Put(ctx context.Context, key string, body *io.SectionReader, c s3api.Conditions) (string, error) {
	sum, err := checksum(body)
	if err != nil {
		return "", err
	}
	o := minio.PutObjectOptions{DisableContentSha256: true} // not by pieces: sum is of the whole
	match(&o, c)
	lock(&o, c)
	info, err := a.core.PutObject(ctx, a.bucket, key, body, body.Size(), "", sum, o)
	return info.ETag, err
}

// CreateUpload implements [s3api.API].
func (a *api) CreateUpload(ctx context.Context, key string, c s3api.Conditions) (string, error) {
	var o minio.PutObjectOptions
	lock(&o, c)
	return a.core.NewMultipartUpload(ctx, a.bucket, key, o)
}

// PutPart implements [s3api.API].
func (a *api) PutPart(ctx context.Context, key, upload string, number int, body *io.SectionReader) (s3api.Part, error) {
	sum, err := checksum(body)
	if err != nil {
		return s3api.Part{}, err
	}
	part, err := a.core.PutObjectPart(ctx, a.bucket, key, upload, number, body, body.Size(), minio.PutObjectPartOptions{Sha256Hex: sum, DisableContentSha256: true})
	return s3api.Part{Number: number, Tag: part.ETag}, err
}

// CompleteUpload implements [s3api.API].
func (a *api) CompleteUpload(ctx context.Context, key, upload string, parts []s3api.Part, c s3api.Conditions) (string, error) {
	done := make([]minio.CompletePart, len(parts))
	for i, p := range parts {
		done[i] = minio.CompletePart{PartNumber: p.Number, ETag: p.Tag}
	}
	var o minio.PutObjectOptions
	match(&o, c)
	info, err := a.core.CompleteMultipartUpload(ctx, a.bucket, key, upload, done, o)
	return info.ETag, err
}

// AbortUpload implements [s3api.API].
func (a *api) AbortUpload(ctx context.Context, key, upload string) error {
	return a.core.AbortMultipartUpload(ctx, a.bucket, key, upload)
}

// Get implements [s3api.API].
func (a *api) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, string, error) {
	var o minio.GetObjectOptions
	var err error
	switch {
	case n >= 0:
		err = o.SetRange(off, off+n-1)
	case off > 0:
		err = o.SetRange(off, 0)
	}
	if err != nil {
		return nil, "", err
	}
	body, info, _, err := a.core.GetObject(ctx, a.bucket, key, o)
	return body, info.ETag, err
}

// Head implements [s3api.API].
func (a *api) Head(ctx context.Context, key string) (s3api.Head, error) {
	info, err := a.core.Client.StatObject(ctx, a.bucket, key, minio.StatObjectOptions{})
	if err != nil {
		return s3api.Head{}, err
	}
	h := s3api.Head{Entry: entry(info), Version: info.VersionID}
	if until := info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"); until != "" {
		h.RetainUntil, err = time.Parse(time.RFC3339, until)
	}
	return h, err
}

func entry(info minio.ObjectInfo) s3api.Entry {
	return s3api.Entry{Key: info.Key, Tag: info.ETag, Size: info.Size, Modified: info.LastModified}
}

// Delete implements [s3api.API].
func (a *api) Delete(ctx context.Context, key, version string) error {
	return a.core.RemoveObject(ctx, a.bucket, key, minio.RemoveObjectOptions{VersionID: version})
}

// List implements [s3api.API].
func (a *api) List(ctx context.Context, prefix, after string, page int) iter.Seq2[s3api.Entry, error] {
	return func(yield func(s3api.Entry, error) bool) {
		for info := range a.core.ListObjectsIter(ctx, a.bucket, minio.ListObjectsOptions{Prefix: prefix, StartAfter: after, MaxKeys: page, Recursive: true}) {
			if info.Err != nil {
				yield(s3api.Entry{}, info.Err)
				return
			}
			if !yield(entry(info), nil) {
				return
			}
		}
		// The iterator ends without a word when its context does.
		if err := ctx.Err(); err != nil {
			yield(s3api.Entry{}, err)
		}
	}
}
