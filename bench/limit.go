package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/pki"
	"github.com/tidegate/tidegate/internal/vfs"
)

// peerCommand runs the limit's other end; its arguments are its directory and
// the files of its certificate.
const peerCommand = "limit-peer"

const (
	cluster = "bench"

	// The file grows as the product's logs do: room is set aside in steps, and
	// a new file begins at a segment's size.
	reserveStep = 8 << 20
	fileBytes   = 64 << 20

	messageHeader = 8 // length, and whether to keep the message
)

// appender appends to a file and syncs it: nothing else can make bytes durable
// with less.
type appender struct {
	dir      string
	f        vfs.File
	files    int
	at       int64
	reserved int64
}

func newAppender(dir string) (*appender, error) {
	if err := durable.MkdirAll(vfs.OS(), dir); err != nil {
		return nil, err
	}
	a := &appender{dir: dir}
	return a, a.roll()
}

func (a *appender) roll() error {
	old := a.f
	f, err := vfs.OS().Create(filepath.Join(a.dir, fmt.Sprintf("%06d", a.files)))
	if err != nil {
		return err
	}
	a.f, a.at, a.reserved = f, 0, 0
	a.files++
	if old == nil {
		return nil
	}
	return errors.Join(old.Close(), vfs.OS().Remove(old.Name()))
}

func (a *appender) append(b []byte) error {
	if a.at+int64(len(b)) > fileBytes {
		if err := a.roll(); err != nil {
			return err
		}
	}
	if to := a.at + int64(len(b)); to > a.reserved {
		vfs.Reserve(a.f, a.reserved, to+reserveStep)
		a.reserved = to + reserveStep
	}
	if _, err := a.f.WriteAt(b, a.at); err != nil {
		return err
	}
	a.at += int64(len(b))
	return a.f.Sync()
}

func (a *appender) close() error { return a.f.Close() }

// limit is what the machine can do.
type limit struct {
	log  *appender
	conn *tls.Conn
	in   *bufio.Reader
	buf  []byte
	stop func() error
}

// newLimit starts the peer and connects to it.
func newLimit(ctx context.Context, dir string) (*limit, error) {
	log, err := newAppender(filepath.Join(dir, "here"))
	if err != nil {
		return nil, err
	}
	l := &limit{log: log, stop: func() error { return nil }}
	if err := l.connect(ctx, dir); err != nil {
		return nil, errors.Join(fmt.Errorf("start the limit's peer: %w", err), l.close())
	}
	return l, nil
}

func (l *limit) connect(ctx context.Context, dir string) error {
	authority, err := pki.Dev(filepath.Join(dir, "pki"), cluster)
	if err != nil {
		return err
	}
	here := tidegate.Identity{Cluster: cluster, Site: "east", Role: tidegate.RoleAgent, Name: "here"}
	there := tidegate.Identity{Cluster: cluster, Site: "west", Role: tidegate.RoleStandby, Name: "there"}
	creds, err := authority.Credentials(here)
	if err != nil {
		return err
	}
	files, err := authority.Issue(there, []string{"127.0.0.1"}, 24*time.Hour)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, peerCommand, filepath.Join(dir, "there"), files.Cert, files.Key, files.CA)
	cmd.Stderr = os.Stderr
	// The bench's death must not leave its peer running.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	l.stop = func() error {
		_ = cmd.Process.Kill() // it may have ended already
		_ = cmd.Wait()         // killed: the error says so
		return nil
	}
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return err
	}
	d := tls.Dialer{Config: creds.ClientTLS(pki.Expect{Role: tidegate.RoleStandby, Name: "there"})}
	conn, err := d.DialContext(ctx, "tcp", addr[:len(addr)-1])
	if err != nil {
		return err
	}
	l.conn, l.in = conn.(*tls.Conn), bufio.NewReaderSize(conn, 32<<10) //nolint:forcetypeassert // a tls.Dialer makes nothing else
	return nil
}

func (l *limit) close() error {
	if l.conn != nil {
		_ = l.conn.Close() // the peer is killed next
	}
	return errors.Join(l.stop(), l.log.close())
}

// cross sends b to the peer, which appends it to its file and syncs that if
// keep, and waits for as many bytes in return.
func (l *limit) cross(b []byte, keep bool) error {
	l.buf = binary.LittleEndian.AppendUint32(l.buf[:0], uint32(len(b)))
	l.buf = binary.LittleEndian.AppendUint32(l.buf, map[bool]uint32{true: 1}[keep])
	l.buf = append(l.buf, b...)
	if _, err := l.conn.Write(l.buf); err != nil {
		return err
	}
	_, err := io.ReadFull(l.in, l.buf)
	return err
}

// trip is the limit of a round trip: durable here, across, durable there, back.
func (l *limit) trip(b []byte) error {
	if err := l.log.append(b); err != nil {
		return err
	}
	return l.cross(b, true)
}

// servePeer answers one connection until it ends.
func servePeer(args []string, out io.Writer) error {
	if len(args) != 4 {
		return fmt.Errorf("%s: want directory, certificate, key, CA (got %d arguments)", peerCommand, len(args))
	}
	log, err := newAppender(args[0])
	if err != nil {
		return err
	}
	creds, err := pki.Load(args[1], args[2], args[3])
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, ln.Addr()); err != nil {
		return err
	}
	raw, err := ln.Accept()
	if err != nil {
		return err
	}
	conn := tls.Server(raw, creds.ServerTLS(tidegate.RoleAgent))
	in := bufio.NewReaderSize(conn, 32<<10)
	var buf []byte
	for {
		if buf, err = answer(in, conn, log, buf); err != nil {
			if errors.Is(err, io.EOF) {
				return log.close()
			}
			return errors.Join(err, log.close())
		}
	}
}

func answer(in io.Reader, out io.Writer, log *appender, buf []byte) ([]byte, error) {
	var head [messageHeader]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return buf, err
	}
	buf = append(buf[:0], head[:]...)
	buf = append(buf, make([]byte, binary.LittleEndian.Uint32(head[:]))...)
	body := buf[messageHeader:]
	if _, err := io.ReadFull(in, body); err != nil {
		return buf, err
	}
	if head[4] == 1 {
		if err := log.append(body); err != nil {
			return buf, err
		}
	}
	_, err := out.Write(buf)
	return buf, err
}
