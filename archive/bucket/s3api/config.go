package s3api

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
)

// Config says which bucket. The zero value of a limit means its default.
type Config struct {
	Bucket   string
	Prefix   string // of every key, without slashes around it; empty: none
	Endpoint string // https://host:port; empty: AWS, by region
	Region   string // empty: what the library finds, RegionDefault at an endpoint
	CA       string // PEM file; empty: the machine's authorities

	PartBytes int64 // larger objects go in parts of this; real servers want at least PartBytesMin
	Page      int   // objects that are listed by one request
}

// Defaults and limits.
const (
	// RegionDefault is what servers that have no regions call theirs.
	RegionDefault = "us-east-1"
	// PartBytesDefault: a part is sent again whole when it is cut.
	PartBytesDefault = 16 << 20
	// PartBytesMin is the smallest part, but for the last, that a server takes.
	PartBytesMin = 5 << 20
	// PartsMax is how many parts an object may have.
	PartsMax = 10_000
	// PageDefault is what a server gives at most.
	PageDefault = 1000
	// partsAtOnce are sent in parallel.
	partsAtOnce = 4
)

// SetDefaults returns a copy with every unset limit at its default.
func (c Config) SetDefaults() Config {
	c.Prefix = strings.Trim(c.Prefix, "/")
	if c.Region == "" && c.Endpoint != "" {
		c.Region = RegionDefault
	}
	if c.PartBytes == 0 {
		c.PartBytes = PartBytesDefault
	}
	if c.Page == 0 {
		c.Page = PageDefault
	}
	return c
}

// Times of the transport. How long an answer may take is not among them: whether
// anything moves is watched by bucket.Stall.
const (
	dialTimeout = 10 * time.Second
	idleTimeout = 90 * time.Second
	idleConns   = 32
)

// Transport makes the connections of a driver. It reads the file of authorities.
func (c Config) Transport() (*http.Transport, error) {
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer.DialContext,
		TLSHandshakeTimeout: dialTimeout,
		MaxIdleConnsPerHost: idleConns,
		IdleConnTimeout:     idleTimeout,
		// A proxy that compresses on the way would make lengths and ranges a guess.
		DisableCompression: true,
		TLSClientConfig:    &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if c.CA == "" {
		return t, nil
	}
	pem, err := os.ReadFile(c.CA)
	if err == nil {
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			err = errors.New("no certificate in it")
		}
	}
	if err != nil {
		return nil, &tidegate.Error{
			Op: "open archive: read authorities", Subject: c.CA, Class: tidegate.Misuse, Err: err,
			Hint: "archive.ca is a PEM file of the authorities that signed the endpoint's certificate",
		}
	}
	return t, nil
}
