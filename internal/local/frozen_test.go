package local

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// A peer that has stopped reading must not hold its sender up for ever.
func TestFrozenPeerEndsTheSend(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the write timeout")
	}
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	nc, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	c := NewConn(nc)
	defer c.Close()
	big := &Batch{Epoch: 1, Seq: 1, First: 0, Next: 1 << 20, Records: 1, Payload: make([]byte, 1<<20)}
	for err == nil {
		err = c.Send(big)
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("send = %v, want a deadline", err)
	}
}
