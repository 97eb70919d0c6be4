package s3test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/tidegate/tidegate/archive/bucket/s3api"
)

// The credentials of every server that is started here.
const (
	User   = "tidegate"
	Secret = "not-a-secret-at-all"
)

// Kind is a program that serves S3.
type Kind string

// The kinds.
const (
	MinIO     Kind = "minio"
	VersityGW Kind = "versitygw"
)

// Kinds lists them all.
func Kinds() []Kind { return []Kind{MinIO, VersityGW} }

// Server is a running server.
type Server struct {
	Kind     Kind
	Endpoint string // http://127.0.0.1:port

	bin, addr, dir string
	cmd            *exec.Cmd
	exited         chan struct{}
}

// Start starts the program of that kind that lies in the folder bin, and stops it
// with the test. The environment of the test gets the server's credentials.
func Start(t *testing.T, bin string, kind Kind) *Server {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(bin, string(kind)))
	if err == nil {
		_, err = os.Stat(path)
	}
	if bin == "" || err != nil {
		t.Fatalf("no server %s in %q: run `make test-s3`", kind, bin)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s := &Server{Kind: kind, Endpoint: "http://" + addr, bin: path, addr: addr, dir: t.TempDir()}
	Credentials(t, User, Secret)
	s.Again(t)
	t.Cleanup(s.Kill)
	if t.Failed() {
		t.FailNow()
	}
	return s
}

// Credentials puts credentials where every driver's chain looks first, and makes
// sure that it finds no others.
func Credentials(t *testing.T, user, secret string) {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": user, "AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_EC2_METADATA_DISABLED": "true",
		"MINIO_ROOT_USER": "", "MINIO_ROOT_PASSWORD": "", "MINIO_ACCESS_KEY": "", "MINIO_SECRET_KEY": "",
	} {
		t.Setenv(name, value)
	}
}

// Again starts a server once more after Kill, and waits until it answers. It may be
// called on another goroutine than the test's.
func (s *Server) Again(t *testing.T) {
	t.Helper()
	if err := s.start(t.Context()); err != nil {
		t.Errorf("%s: %v", s.Kind, err)
	}
}

func (s *Server) start(ctx context.Context) error {
	data, versions := filepath.Join(s.dir, "data"), filepath.Join(s.dir, "versions")
	for _, dir := range []string{data, versions} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return err
		}
	}
	if s.Kind == MinIO {
		s.cmd = exec.Command(s.bin, "server", "--quiet", "--address", s.addr, "--console-address", "127.0.0.1:0", data)
	} else {
		s.cmd = exec.Command(s.bin, "--quiet", "--port", s.addr, "posix", "--versioning-dir", versions, data)
	}
	s.cmd.Env = append(os.Environ(),
		"MINIO_ROOT_USER="+User, "MINIO_ROOT_PASSWORD="+Secret, "MINIO_CI_CD=1", "MINIO_UPDATE=off",
		"ROOT_ACCESS_KEY="+User, "ROOT_SECRET_KEY="+Secret)
	var out strings.Builder
	s.cmd.Stdout, s.cmd.Stderr = &out, &out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	cmd, exited := s.cmd, make(chan struct{})
	s.exited = exited
	// owned by the Server; ends when the process does, which Kill sees to
	go func() {
		_ = cmd.Wait() // killed, mostly
		close(exited)
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-exited:
			return fmt.Errorf("it has ended: %s", out.String())
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", ctx.Err())
		case <-tick.C:
		}
		if s.ready() {
			return nil
		}
	}
}

// ready reports whether the server does what it is asked.
func (s *Server) ready() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := s.client().ListBuckets(ctx, &s3.ListBucketsInput{})
	return err == nil
}

// Kill kills the server at once and waits until it is gone.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.exited
}

func (s *Server) client() *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: aws.String(s.Endpoint), UsePathStyle: true, Region: s3api.RegionDefault,
		Credentials: credentials.NewStaticCredentialsProvider(User, Secret, ""),
		Retryer:     aws.NopRetryer{}, HTTPClient: &http.Client{},
	})
}

// Bucket makes a bucket, with object lock if lock is set, and returns how it is
// configured, with small limits.
func (s *Server) Bucket(t *testing.T, name string, lock bool) s3api.Config {
	t.Helper()
	_, err := s.client().CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name, ObjectLockEnabledForBucket: &lock})
	if err != nil {
		t.Fatal(err)
	}
	return s3api.Config{Bucket: name, Endpoint: s.Endpoint, PartBytes: s3api.PartBytesMin, Page: 10}
}

// Uploads returns how many unfinished uploads a bucket has.
func (s *Server) Uploads(t *testing.T, cfg s3api.Config) int {
	t.Helper()
	out, err := s.client().ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: &cfg.Bucket})
	if err != nil {
		t.Fatal(err)
	}
	return len(out.Uploads)
}

// prefix is a place of its own in a bucket.
func prefix(cfg s3api.Config, n int) s3api.Config {
	cfg.Prefix = fmt.Sprintf("some/place-%d", n)
	return cfg
}
