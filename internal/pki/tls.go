package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/tidegate/tidegate"
)

// Reasons for which a peer is turned away. Test with errors.Is; the error that
// a handshake returns is a *[tidegate.Error] of class refused.
var (
	ErrOtherCluster = errors.New("certificate of another cluster")
	ErrUntrusted    = errors.New("certificate not trusted")
	ErrOtherPeer    = errors.New("certificate of another peer")
	ErrNoIdentity   = errors.New("certificate carries no tidegate identity")
)

// Expect narrows whom a client accepts at the other end. Zero fields accept any.
type Expect struct {
	Role tidegate.Role
	Name string
}

// ServerTLS returns the configuration of a listener. A peer whose role is not
// among roles is refused in the handshake; no roles accepts any role, and the
// server then decides per call from [PeerIdentity].
func (c *Credentials) ServerTLS(roles ...tidegate.Role) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The chain is verified in VerifyConnection against the authority as
		// it is on disk now, not as it was when the listener was made.
		ClientAuth:     tls.RequireAnyClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &c.load().cert, nil },
		VerifyConnection: func(cs tls.ConnectionState) error {
			id, err := c.verify(cs)
			if err == nil && len(roles) > 0 && !slices.Contains(roles, id.Role) {
				err = refuse(id.String(), ErrOtherPeer, fmt.Sprintf("role %s, want one of %v", id.Role, roles))
			}
			return err
		},
	}
}

// ClientTLS returns the configuration of a dialer that accepts only peers that
// want describes.
func (c *Credentials) ClientTLS(want Expect) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Not insecure: VerifyConnection below verifies the chain against the
		// cluster's own authority and the peer's name by its URI SAN, which
		// the host name comparison of the standard library knows nothing of.
		InsecureSkipVerify:   true, //nolint:gosec // replaced by VerifyConnection, see above
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.load().cert, nil },
		VerifyConnection: func(cs tls.ConnectionState) error {
			id, err := c.verify(cs)
			switch {
			case err != nil:
				return err
			case want.Role != "" && id.Role != want.Role:
				return refuse(id.String(), ErrOtherPeer, fmt.Sprintf("role %s, want %s", id.Role, want.Role))
			case want.Name != "" && id.Name != want.Name:
				return refuse(id.String(), ErrOtherPeer, fmt.Sprintf("name %s, want %s", id.Name, want.Name))
			}
			return nil
		},
	}
}

// PeerIdentity returns whom the peer's verified certificate speaks for.
func PeerIdentity(cs tls.ConnectionState) (tidegate.Identity, error) {
	if len(cs.PeerCertificates) == 0 {
		return tidegate.Identity{}, refuse("", ErrNoIdentity, "no certificate shown")
	}
	return identityOf(cs.PeerCertificates[0])
}

// verify looks at the cluster's name before the chain, because two clusters
// have two authorities and "unknown authority" would hide the plain reason.
func (c *Credentials) verify(cs tls.ConnectionState) (tidegate.Identity, error) {
	id, err := PeerIdentity(cs)
	if err != nil {
		return id, err
	}
	if id.Cluster != c.identity.Cluster {
		return id, refuse(id.String(), ErrOtherCluster, fmt.Sprintf("cluster %s, want %s", id.Cluster, c.identity.Cluster))
	}
	inter := x509.NewCertPool()
	for _, cert := range cs.PeerCertificates[1:] {
		inter.AddCert(cert)
	}
	if _, err := cs.PeerCertificates[0].Verify(verifyOptions(c.load().roots, inter)); err != nil {
		return id, refuse(id.String(), ErrUntrusted, err.Error())
	}
	return id, nil
}

func identityOf(cert *x509.Certificate) (tidegate.Identity, error) {
	for _, u := range cert.URIs {
		if u.Scheme != "tidegate" {
			continue
		}
		id, err := tidegate.ParseIdentity(u.String())
		if err != nil {
			return id, refuse(u.String(), ErrNoIdentity, err.Error())
		}
		return id, nil
	}
	return tidegate.Identity{}, refuse(cert.Subject.CommonName, ErrNoIdentity, "no URI SAN tidegate://<cluster>/<site>/<role>/<name>")
}

func refuse(subject string, reason error, detail string) error {
	return &tidegate.Error{
		Op: "verify peer", Subject: subject, Class: tidegate.Refused,
		Hint: "compare the certificates and the ca file of both ends with `tidegate doctor`",
		Err:  fmt.Errorf("%w: %s", reason, detail),
	}
}
