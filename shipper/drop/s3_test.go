//go:build s3

package drop

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/minio"
	"github.com/tidegate/tidegate/archive/bucket/s3api"
	"github.com/tidegate/tidegate/archive/bucket/s3api/s3test"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/shipper"
)

var servers = flag.String("s3-servers", "", "folder of the programs minio and versitygw")

// patient limits wait for what a bucket is asked again for.
var patient = Limits(shipper.Limits{}).SetDefaults()

// TestServers has ship sessions cross by real servers, undisturbed and damaged on the
// way: what arrives is what was sealed.
func TestServers(t *testing.T) {
	for _, kind := range s3test.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			s := s3test.Start(t, *servers, kind)
			cfg := s.Bucket(t, "crossing", false)
			t.Run("two agents", func(t *testing.T) { twoAgents(t, opened(t, cfg, "two")) })
			t.Run("damaged", func(t *testing.T) { damaged(t, s, cfg) })
			t.Run("killed", func(t *testing.T) { killed(t, s, cfg) })
		})
	}
}

// opened is a place in a server's bucket, by the driver that agents have, around which
// is what they have around it.
func opened(t *testing.T, cfg s3api.Config, prefix string) bucket.Bucket {
	t.Helper()
	cfg.Prefix = prefix
	b, err := minio.Open(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	return bucket.Retry(bucket.Stall(b, 2*time.Second), bucket.RetryConfig{Policy: retry.Policy{First: 10 * time.Millisecond, Max: 200 * time.Millisecond}})
}

// crossed ships batches of a stream over a new session, and finds them at the node.
func (p *place) crossed(agent string, stream tidegate.StreamID, all [][]byte) error {
	conn, err := p.dialFor(p.of(tidegate.RoleAgent, agent), stream)
	if err != nil {
		return err
	}
	if err := ship(p.t, conn, all); err != nil {
		return err
	}
	if _, got := p.node.took(stream); !bytes.Equal(bytes.Join(got, nil), bytes.Join(all, nil)) {
		return fmt.Errorf("%d batches arrived, want %d, byte for byte", len(got), len(all))
	}
	return conn.Close()
}

// twoAgents ship at the same time through one drop, to one node.
func twoAgents(t *testing.T, b bucket.Bucket) {
	p := newPatientPlace(t, b, patient)
	if err := New(b, quick).Check(t.Context(), "app1"); err != nil {
		t.Error(err)
	}
	var both sync.WaitGroup
	var errs [2]error
	for i := range errs {
		stream := tidegate.StreamID{byte(i + 1)}
		all := sealedOf(t, stream, 40, 64<<10)
		both.Go(func() { errs[i] = p.crossed(fmt.Sprintf("app%d", i+1), stream, all) })
	}
	both.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Error(err)
	}
	if attached, _ := p.node.took(first); attached != 2 {
		t.Errorf("%d sessions", attached)
	}
	// What has been read is gone, but for the ends of connections.
	left := names(t, p.b)
	for _, name := range left {
		if _, _, _, err := parsePiece(node, name); err != nil {
			t.Error(err)
		}
	}
	if len(left) > 8 {
		t.Errorf("%d pieces are left: %q", len(left), left)
	}
}

// damaged lets every fault befall what passes between both ends and the server.
func damaged(t *testing.T, s *s3test.Server, cfg s3api.Config) {
	proxy := s3test.NewProxy(t, s)
	cfg.Endpoint = proxy.URL
	p := newPatientPlace(t, opened(t, cfg, "damaged"), patient)
	all := sealedOf(t, first, 10, 16<<10)
	for _, f := range []s3test.Fault{s3test.Refuse, s3test.Hang, s3test.CutRequest, s3test.CutAnswer, s3test.CutBody, s3test.StallBody, s3test.Flip} {
		t.Run(string(f), func(t *testing.T) {
			conn, err := p.dial(p.of(tidegate.RoleAgent, "app1"))
			if err != nil {
				t.Fatal(err)
			}
			proxy.Do(f, map[s3test.Fault]int{s3test.Refuse: 7, s3test.Hang: 1, s3test.CutRequest: 2, s3test.CutAnswer: 2, s3test.CutBody: 2, s3test.StallBody: 1, s3test.Flip: 1}[f])
			if err := ship(t, conn, all); err != nil {
				t.Fatal(err)
			}
			if proxy.Hit() == 0 {
				t.Error("befell nothing")
			}
			proxy.Do(f, 0)
			if _, got := p.node.took(first); !bytes.Equal(bytes.Join(got, nil), bytes.Join(all, nil)) {
				t.Errorf("%d batches arrived, want %d, byte for byte", len(got), len(all))
			}
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// killed kills the server while a piece is on its way, and starts it again.
func killed(t *testing.T, s *s3test.Server, cfg s3api.Config) {
	proxy := s3test.NewProxy(t, s)
	cfg.Endpoint = proxy.URL
	p := newPatientPlace(t, opened(t, cfg, "killed"), patient)
	dead := make(chan struct{})
	var again sync.WaitGroup
	again.Go(func() {
		<-dead
		s.Again(t)
	})
	conn, err := p.dial(p.of(tidegate.RoleAgent, "app1"))
	if err != nil {
		t.Fatal(err)
	}
	proxy.AtHalf(func() {
		s.Kill()
		close(dead)
	})
	all := sealedOf(t, first, 20, 64<<10)
	if err := ship(t, conn, all); err != nil {
		t.Fatal(err)
	}
	again.Wait()
	if _, got := p.node.took(first); !bytes.Equal(bytes.Join(got, nil), bytes.Join(all, nil)) {
		t.Errorf("%d batches arrived, want %d, byte for byte", len(got), len(all))
	}
}
