package place

import (
	"errors"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/internal/config"
)

// The drivers of s3:// addresses.
const (
	DriverS3    = "s3"    // aws-sdk-go-v2
	DriverMinIO = "minio" // minio-go, for what is not AWS
)

// Config is the block `archive` that every file and command that uses an archive
// has. The zero value is an absent one: no archive. Credentials are in no file of
// ours: they come from where the driver's other users have them, see
// docs/operating/archive-buckets.md.
type Config struct {
	URL      string `yaml:"url"`      // file:///srv/archive, s3://bucket/prefix
	Driver   string `yaml:"driver"`   // of s3://; DriverS3 unless said otherwise
	Endpoint string `yaml:"endpoint"` // https://host:port of what is not AWS
	Region   string `yaml:"region"`   // empty: what the driver finds, or us-east-1 at an endpoint
	CA       string `yaml:"ca"`       // PEM file of the authorities that the endpoint's certificate may have; empty: the machine's
	// Encryption of what is stored, before it leaves this process; absent: none.
	Encryption Encryption `yaml:"encryption"`
	// Lock is how long an object is locked from when it was put; 0: not.
	Lock time.Duration `yaml:"lock"`
}

// Encryption says with which keys.
type Encryption struct {
	KeyFile string `yaml:"key_file"` // see package encrypt; empty: plain
}

// IsZero reports whether there is no such block.
func (c Config) IsZero() bool { return c == Config{} }

// SetDefaults returns a copy with every unset key at its default.
func (c Config) SetDefaults() Config {
	if c.Driver == "" && strings.HasPrefix(c.URL, "s3://") {
		c.Driver = DriverS3
	}
	return c
}

// Validate reports every broken rule; an absent block breaks none.
func (c Config) Validate() error {
	if c.IsZero() {
		return nil
	}
	all := []error{c.validateURL()}
	if !strings.HasPrefix(c.URL, "file:") {
		if c.Driver != DriverS3 && c.Driver != DriverMinIO {
			all = append(all, config.Broken("driver", "want "+DriverS3+" or "+DriverMinIO, c.Driver))
		}
		if c.Endpoint != "" && !validEndpoint(c.Endpoint) {
			all = append(all, config.Broken("endpoint", "want https://host or http://host, with a port where it is another", c.Endpoint))
		}
		if c.Endpoint == "" && c.Driver == DriverMinIO {
			all = append(all, config.Broken("endpoint", "want https://host:port with driver minio", c.Endpoint))
		}
		if c.CA != "" {
			all = append(all, config.AbsPath("ca", c.CA))
		}
	} else {
		for _, is := range []struct{ key, value string }{{"driver", c.Driver}, {"endpoint", c.Endpoint}, {"region", c.Region}, {"ca", c.CA}} {
			if is.value != "" {
				all = append(all, config.Broken(is.key, "a directory has none", is.value))
			}
		}
		if c.Lock != 0 {
			all = append(all, config.Broken("lock", "a directory cannot lock objects", c.Lock))
		}
	}
	if c.Lock < 0 {
		all = append(all, config.Broken("lock", "want a duration, 0 for none", c.Lock))
	}
	if c.Encryption.KeyFile != "" {
		all = append(all, config.AbsPath("encryption.key_file", c.Encryption.KeyFile))
	}
	return errors.Join(all...)
}

func (c Config) validateURL() error {
	const rule = "want file:///directory or s3://bucket/prefix"
	u, err := url.Parse(c.URL)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return config.Broken("url", rule, c.URL)
	}
	switch {
	case u.Scheme == "file" && u.Host == "" && path.IsAbs(u.Path):
		return nil
	case u.Scheme == "s3" && u.Host != "" && u.Port() == "":
		if prefix := strings.Trim(u.Path, "/"); prefix != "" && bucket.ValidName(prefix) != nil {
			return config.Broken("url", "want a prefix of parts with one slash between them, of printable ASCII without blanks", c.URL)
		}
		return nil
	}
	return config.Broken("url", rule, c.URL)
}

func validEndpoint(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil && strings.Trim(u.Path, "/") == "" && u.RawQuery == "" && u.Fragment == ""
}
