package lab

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

func TestDelay(t *testing.T) {
	const each = 30 * time.Millisecond
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDelay(each)
	if err != nil {
		t.Fatal(err)
	}
	d.Lead(echo.Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return d.Run(ctx) })
	g.Go(func() error {
		c, err := echo.Accept()
		if err != nil {
			return err
		}
		_, err = io.Copy(c, c)
		return err
	})
	c, err := net.Dial("tcp", d.Addr())
	if err != nil {
		t.Fatal(err)
	}
	// What one machine's loopback cannot do faster shows that each way is late;
	// that many of them take no longer than one shows that nothing waits for an answer.
	began := time.Now()
	const words = 100
	for range words {
		if _, err := c.Write([]byte("word")); err != nil {
			t.Fatal(err)
		}
	}
	back := make([]byte, 4*words)
	if _, err := io.ReadFull(c, back); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 2*each || took > words*each {
		t.Errorf("%d words came back after %s, each way takes %s", words, took, each)
	}
	cancel()
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		t.Error(err)
	}
	if err := echo.Close(); err != nil {
		t.Error(err)
	}
}
