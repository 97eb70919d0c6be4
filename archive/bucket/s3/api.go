package s3

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/tidegate/tidegate/archive/bucket/s3api"
)

// api implements [s3api.API].
type api struct {
	bucket string
	s3     *s3.Client
}

// optional is how the library wants what may be left out.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func match(c s3api.Conditions) (ifNoneMatch, ifMatch *string) {
	if c.IfAbsent {
		ifNoneMatch = aws.String("*")
	}
	if c.IfMatch != "" {
		ifMatch = aws.String(`"` + c.IfMatch + `"`)
	}
	return ifNoneMatch, ifMatch
}

func lock(c s3api.Conditions) (types.ObjectLockMode, *time.Time) {
	if c.RetainUntil.IsZero() {
		return "", nil
	}
	return types.ObjectLockModeCompliance, &c.RetainUntil
}

func tag(etag *string) string { return strings.Trim(aws.ToString(etag), `"`) }

// castagnoli is a constant table.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum reads a body through, which is then sent from its start: the server
// refuses what is not the same.
func checksum(body *io.SectionReader) (string, error) {
	h := crc32.New(castagnoli)
	if _, err := io.Copy(h, body); err != nil {
		return "", err
	}
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, h.Sum32())), nil
}

// Put implements [s3api.API].
func (a *api) Put(ctx context.Context, key string, body *io.SectionReader, c s3api.Conditions) (string, error) {
	sum, err := checksum(body)
	if err != nil {
		return "", err
	}
	in := &s3.PutObjectInput{Bucket: &a.bucket, Key: &key, Body: body, ContentLength: aws.Int64(body.Size()), ChecksumCRC32C: &sum}
	in.IfNoneMatch, in.IfMatch = match(c)
	in.ObjectLockMode, in.ObjectLockRetainUntilDate = lock(c)
	out, err := a.s3.PutObject(ctx, in)
	if err != nil {
		return "", err
	}
	return tag(out.ETag), nil
}

// CreateUpload implements [s3api.API].
func (a *api) CreateUpload(ctx context.Context, key string, c s3api.Conditions) (string, error) {
	in := &s3.CreateMultipartUploadInput{Bucket: &a.bucket, Key: &key, ChecksumAlgorithm: types.ChecksumAlgorithmCrc32c}
	in.ObjectLockMode, in.ObjectLockRetainUntilDate = lock(c)
	out, err := a.s3.CreateMultipartUpload(ctx, in)
	if err != nil {
		return "", err
	}
	return aws.ToString(out.UploadId), nil
}

// PutPart implements [s3api.API].
func (a *api) PutPart(ctx context.Context, key, upload string, number int, body *io.SectionReader) (s3api.Part, error) {
	sum, err := checksum(body)
	if err != nil {
		return s3api.Part{}, err
	}
	out, err := a.s3.UploadPart(ctx, &s3.UploadPartInput{
		Bucket: &a.bucket, Key: &key, UploadId: &upload, PartNumber: aws.Int32(int32(number)),
		Body: body, ContentLength: aws.Int64(body.Size()), ChecksumCRC32C: &sum,
	})
	if err != nil {
		return s3api.Part{}, err
	}
	return s3api.Part{Number: number, Tag: aws.ToString(out.ETag), Checksum: sum}, nil
}

// CompleteUpload implements [s3api.API].
func (a *api) CompleteUpload(ctx context.Context, key, upload string, parts []s3api.Part, c s3api.Conditions) (string, error) {
	done := make([]types.CompletedPart, len(parts))
	for i, p := range parts {
		done[i] = types.CompletedPart{PartNumber: aws.Int32(int32(p.Number)), ETag: aws.String(p.Tag), ChecksumCRC32C: aws.String(p.Checksum)}
	}
	in := &s3.CompleteMultipartUploadInput{Bucket: &a.bucket, Key: &key, UploadId: &upload, MultipartUpload: &types.CompletedMultipartUpload{Parts: done}}
	in.IfNoneMatch, in.IfMatch = match(c)
	out, err := a.s3.CompleteMultipartUpload(ctx, in)
	if err != nil {
		return "", err
	}
	return tag(out.ETag), nil
}

// AbortUpload implements [s3api.API].
func (a *api) AbortUpload(ctx context.Context, key, upload string) error {
	_, err := a.s3.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &a.bucket, Key: &key, UploadId: &upload})
	return err
}

// Get implements [s3api.API].
func (a *api) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, string, error) {
	in := &s3.GetObjectInput{Bucket: &a.bucket, Key: &key}
	switch {
	case n >= 0:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	case off > 0:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", off))
	}
	out, err := a.s3.GetObject(ctx, in)
	if err != nil {
		return nil, "", err
	}
	return out.Body, tag(out.ETag), nil
}

// Head implements [s3api.API].
func (a *api) Head(ctx context.Context, key string) (s3api.Head, error) {
	out, err := a.s3.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &a.bucket, Key: &key})
	if err != nil {
		return s3api.Head{}, err
	}
	return s3api.Head{
		Entry:       s3api.Entry{Key: key, Tag: tag(out.ETag), Size: aws.ToInt64(out.ContentLength), Modified: aws.ToTime(out.LastModified)},
		Version:     aws.ToString(out.VersionId),
		RetainUntil: aws.ToTime(out.ObjectLockRetainUntilDate),
	}, nil
}

// Delete implements [s3api.API].
func (a *api) Delete(ctx context.Context, key, version string) error {
	_, err := a.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &a.bucket, Key: &key, VersionId: optional(version)})
	return err
}

// List implements [s3api.API].
func (a *api) List(ctx context.Context, prefix, after string, page int) iter.Seq2[s3api.Entry, error] {
	return func(yield func(s3api.Entry, error) bool) {
		pages := s3.NewListObjectsV2Paginator(a.s3, &s3.ListObjectsV2Input{
			Bucket: &a.bucket, Prefix: optional(prefix), StartAfter: optional(after), MaxKeys: aws.Int32(int32(page)),
		})
		for pages.HasMorePages() {
			out, err := pages.NextPage(ctx)
			if err != nil {
				yield(s3api.Entry{}, err)
				return
			}
			for _, o := range out.Contents {
				if !yield(s3api.Entry{Key: aws.ToString(o.Key), Tag: tag(o.ETag), Size: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified)}, nil) {
					return
				}
			}
		}
	}
}
