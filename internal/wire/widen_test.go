package wire

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWiden fills a socket that nobody reads: it holds more than before, or, where
// the kernel allows for no more, as much.
func TestWiden(t *testing.T) {
	dir, err := os.MkdirTemp("", "w") //nolint:usetesting // a socket's path must fit into 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // empty but for the socket
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	holds := func(n int) (bytes int) {
		nc, err := net.Dial("unix", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if n > 0 {
			Widen(nc, n)
		}
		raw, err := nc.(*net.UnixConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) { bytes, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF) }); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		return bytes
	}
	was := holds(0)
	if got := holds(WideBytes); got < was {
		t.Errorf("holds %d bytes, and %d without", got, was)
	} else if os.Geteuid() == 0 && got < WideBytes && got < 2*was {
		t.Errorf("holds %d bytes, asked for %d", got, WideBytes)
	}
	a, b := net.Pipe()
	Widen(a, WideBytes)         // no socket: nothing happens
	_, _ = a.Close(), b.Close() // pipes: nothing is left to say
}
