package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

// AuthorityValidity is how long a development authority lives: long enough that
// no demonstration ends by it, short enough not to be mistaken for a real one.
const AuthorityValidity = 10 * 365 * 24 * time.Hour

// Authority is a development certificate authority in a directory: ca.crt,
// ca.key, and <site>-<role>-<name>.crt and .key for each identity issued. Keys
// are ECDSA P-256: browsers and every TLS library accept them.
type Authority struct {
	dir     string
	cluster string
	now     func() time.Time
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
}

// OpenAuthority opens the authority in dir, or makes one for cluster when dir
// has none. The authority of another cluster is refused, never overwritten.
// now gives wall time.
func OpenAuthority(dir, cluster string, now func() time.Time) (*Authority, error) {
	a := &Authority{dir: dir, cluster: cluster, now: now}
	if err := tidegate.ValidName(cluster); err != nil {
		return nil, a.fail(dir, err)
	}
	// Closed to others before there is anything to read: files are born with
	// the group's right to read and lose it a moment later.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, a.fail(dir, err)
	}
	if err := durable.MkdirAll(vfs.OS(), dir); err != nil {
		return nil, a.fail(dir, err)
	}
	_, err := os.Stat(a.path("ca.key"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = a.create()
	case err == nil:
		err = a.open()
	}
	if err != nil {
		return nil, a.fail(dir, err)
	}
	return a, nil
}

// Issue makes a certificate for id, valid from now for the given time and for
// the hosts (DNS names and IP addresses; browsers and curl look at them, nodes
// do not), writes it beside the authority and returns the files' names. Issuing
// again replaces the certificate; running processes pick it up.
func (a *Authority) Issue(id tidegate.Identity, hosts []string, validity time.Duration) (Files, error) {
	if id.Cluster != a.cluster {
		return Files{}, a.fail(id.String(), fmt.Errorf("%w: authority of %s", ErrOtherCluster, a.cluster))
	}
	if _, err := tidegate.ParseIdentity(id.String()); err != nil {
		return Files{}, a.fail(id.String(), err)
	}
	tmpl, err := template(id.Name, a.now(), validity)
	if err != nil {
		return Files{}, a.fail(id.String(), err)
	}
	tmpl.URIs = []*url.URL{id.URL()}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	base := fmt.Sprintf("%s-%s-%s", id.Site, id.Role, id.Name)
	files := Files{Cert: a.path(base + ".crt"), Key: a.path(base + ".key"), CA: a.path("ca.crt")}
	if err := a.sign(tmpl, a.cert, files.Cert, files.Key); err != nil {
		return Files{}, a.fail(id.String(), err)
	}
	return files, nil
}

// Credentials issues a certificate for id, valid for a year on this machine's
// loopback addresses, and loads it.
func (a *Authority) Credentials(id tidegate.Identity) (*Credentials, error) {
	f, err := a.Issue(id, []string{"localhost", "127.0.0.1", "::1"}, 365*24*time.Hour)
	if err != nil {
		return nil, err
	}
	return Load(f.Cert, f.Key, f.CA)
}

// Dev is [OpenAuthority] by this machine's clock: what `tidegate dev` and tests
// need.
func Dev(dir, cluster string) (*Authority, error) { return OpenAuthority(dir, cluster, time.Now) }

func (a *Authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *Authority) fail(subject string, err error) error {
	return &tidegate.Error{Op: "certificate authority", Subject: subject, Class: tidegate.Misuse, Err: err}
}

func (a *Authority) create() error {
	tmpl, err := template("tidegate "+a.cluster, a.now(), AuthorityValidity)
	if err != nil {
		return err
	}
	tmpl.IsCA, tmpl.BasicConstraintsValid, tmpl.MaxPathLenZero = true, true, true
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	tmpl.Subject.Organization = []string{a.cluster}
	return a.sign(tmpl, nil, a.path("ca.crt"), a.path("ca.key"))
}

func (a *Authority) open() error {
	certPEM, err := os.ReadFile(a.path("ca.crt"))
	if err != nil {
		return err
	}
	keyPEM, err := os.ReadFile(a.path("ca.key"))
	if err != nil {
		return err
	}
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return errors.New("ca.crt or ca.key: no PEM block")
	}
	if a.cert, err = x509.ParseCertificate(certBlock.Bytes); err != nil {
		return err
	}
	if a.key, err = x509.ParseECPrivateKey(keyBlock.Bytes); err != nil {
		return err
	}
	if !a.key.PublicKey.Equal(a.cert.PublicKey) {
		return errors.New("ca.key is not the key of ca.crt")
	}
	if org := a.cert.Subject.Organization; len(org) != 1 || org[0] != a.cluster {
		return fmt.Errorf("%w: authority of %v, want %s", ErrOtherCluster, org, a.cluster)
	}
	return nil
}

// write makes the file durable and then readable by its owner only.
func (a *Authority) write(path, kind string, der []byte) error {
	if err := durable.WriteFile(vfs.OS(), path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})); err != nil {
		return err
	}
	return os.Chmod(path, 0o600)
}

// sign makes a key, has parent (nil: itself) sign the certificate and writes
// both. The certificate goes last, so that a crash between the two leaves a
// pair that Load refuses by the key, never one that half works; an authority
// cut off there is unusable and says so in open.
func (a *Authority) sign(tmpl, parent *x509.Certificate, certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	signer := a.key
	if parent == nil {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	if err := a.write(keyFile, "EC PRIVATE KEY", keyDER); err != nil {
		return err
	}
	if err := a.write(certFile, "CERTIFICATE", der); err != nil {
		return err
	}
	if tmpl.IsCA {
		a.cert, a.key = cert, key
	}
	return nil
}

func template(name string, now time.Time, validity time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		// Five minutes back: nodes' clocks differ, and a certificate issued
		// on one must work at once on another.
		NotBefore: now.Add(-5 * time.Minute),
		NotAfter:  now.Add(validity),
	}, nil
}
