package wire

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// WideBytes is for [Widen] where bulk goes to another process: what it is fed with
// while this one waits for its turn on a busy machine.
const WideBytes = 2 << 20

// Widen asks the kernel to hold up to about n bytes that were written to nc and not
// read at the other end, for Unix sockets: what they hold by default, 208 KiB, is less
// than a reader takes in one turn. TCP finds its own measure. A process without
// CAP_NET_ADMIN gets at most net.core.wmem_max, and any gets what it had if the kernel
// does not want to: it is only slower then.
func Widen(nc net.Conn, n int) {
	c, ok := nc.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return // closed: its user will hear of it
	}
	_ = raw.Control(func(fd uintptr) { // as above
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, n) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, n) // then it stays as it is
		}
	})
}
