package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/tidegate/tidegate"
)

// Files names the three PEM files of a node.
type Files struct {
	Cert string // the node's certificate, leaf first
	Key  string // its private key
	CA   string // the authorities that peers must chain to
}

// Credentials is a node's certificate, kept in step with its files.
type Credentials struct {
	files    Files
	identity tidegate.Identity

	mu        sync.Mutex
	current   *loaded
	reloadErr error
}

// loaded is one reading of the three files; it never changes.
type loaded struct {
	cert     tls.Certificate
	leaf     *x509.Certificate
	roots    *x509.CertPool
	notAfter time.Time
	stamps   [3]stamp
}

// stamp tells that a file was replaced or rewritten.
type stamp struct {
	size    int64
	modTime time.Time
}

// Load reads the files once and checks that they belong together: the key fits
// the certificate, the certificate chains to the authority and carries an
// identity. The files are looked at again before every handshake.
func Load(certFile, keyFile, caFile string) (*Credentials, error) {
	files := Files{Cert: certFile, Key: keyFile, CA: caFile}
	l, id, err := read(files)
	if err != nil {
		return nil, err
	}
	return &Credentials{files: files, identity: id, current: l}, nil
}

// Identity returns whom the certificate speaks for; it does not change while
// the process runs.
func (c *Credentials) Identity() tidegate.Identity { return c.identity }

// ExpiresIn returns how long the certificate in use, or the authority above it
// if that ends sooner, is still valid at now; negative once it has expired.
func (c *Credentials) ExpiresIn(now time.Time) time.Duration {
	return c.load().notAfter.Sub(now)
}

// ReloadErr returns why the files on disk are not the ones in use, or nil.
func (c *Credentials) ReloadErr() error {
	c.load()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reloadErr
}

// load returns the newest readable certificate. A new file that cannot be read
// (half copied, key of another certificate, another identity) leaves the old
// one in use: a running replication must not stop because of a renewal; doctor
// shows ReloadErr.
func (c *Credentials) load() *loaded {
	c.mu.Lock()
	defer c.mu.Unlock()
	stamps, err := stampsOf(c.files)
	if err != nil {
		c.reloadErr = err
		return c.current
	}
	if stamps == c.current.stamps {
		c.reloadErr = nil
		return c.current
	}
	l, id, err := read(c.files)
	if err == nil && id != c.identity {
		err = &tidegate.Error{
			Op: "reload certificate", Subject: c.files.Cert, Class: tidegate.Misuse,
			Hint: "restart the process to run it under another identity",
			Err:  fmt.Errorf("identity changed from %s to %s", c.identity, id),
		}
	}
	if err != nil {
		c.reloadErr = err
		return c.current
	}
	c.current, c.reloadErr = l, nil
	return l
}

func stampsOf(f Files) (s [3]stamp, err error) {
	for i, path := range []string{f.Cert, f.Key, f.CA} {
		info, err := os.Stat(path)
		if err != nil {
			return s, err
		}
		s[i] = stamp{info.Size(), info.ModTime()}
	}
	return s, nil
}

func read(f Files) (*loaded, tidegate.Identity, error) {
	fail := func(subject string, err error) (*loaded, tidegate.Identity, error) {
		return nil, tidegate.Identity{}, &tidegate.Error{
			Op: "load certificate", Subject: subject, Class: tidegate.Misuse,
			Hint: "see the tls section of the configuration; `tidegate dev pki` makes a set for trying out",
			Err:  err,
		}
	}
	// Stamps first: a file that changes while it is read is read again later.
	stamps, err := stampsOf(f)
	if err != nil {
		return fail(f.Cert, err)
	}
	cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return fail(f.Cert, err)
	}
	ca, err := os.ReadFile(f.CA)
	if err != nil {
		return fail(f.CA, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return fail(f.CA, errors.New("no certificate in file"))
	}
	leaf := cert.Leaf
	id, err := identityOf(leaf)
	if err != nil {
		return fail(f.Cert, err)
	}
	chains, err := leaf.Verify(verifyOptions(roots, intermediates(cert.Certificate)))
	if err != nil {
		return fail(f.Cert, fmt.Errorf("does not chain to %s: %w", f.CA, err))
	}
	l := &loaded{cert: cert, leaf: leaf, roots: roots, notAfter: leaf.NotAfter, stamps: stamps}
	for _, chained := range chains[0] {
		if chained.NotAfter.Before(l.notAfter) {
			l.notAfter = chained.NotAfter
		}
	}
	return l, id, nil
}

func intermediates(der [][]byte) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, d := range der[1:] {
		if c, err := x509.ParseCertificate(d); err == nil {
			pool.AddCert(c)
		}
	}
	return pool
}

// verifyOptions accepts either extended key usage: every node is a client on
// one connection and a server on the next, with the same certificate.
func verifyOptions(roots, inter *x509.CertPool) x509.VerifyOptions {
	return x509.VerifyOptions{
		Roots: roots, Intermediates: inter,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
}
