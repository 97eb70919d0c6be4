package place

import (
	"errors"
	"net/url"
	"path"
	"regexp"
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

// Encryption says with which keys: those of a file, or those of the archive that a key
// service opens. The zero value is plain.
type Encryption struct {
	KeyFile string `yaml:"key_file"` // see package encrypt
	KMS     KMS    `yaml:"kms"`      // see package kms
}

// KMS is a key of AWS KMS, under which the archive's own keys lie beside it.
type KMS struct {
	Key      string `yaml:"key"`      // of new keys of the archive: an ARN, an id, or alias/name
	Region   string `yaml:"region"`   // empty: the one in the ARN, or what the library finds
	Endpoint string `yaml:"endpoint"` // https://host:port, of another endpoint than the region's own
}

// IsZero reports whether there is no such block.
func (k KMS) IsZero() bool { return k == KMS{} }

// KeyRegion is the region that an ARN of a key names; empty for other keys.
func KeyRegion(key string) string {
	parts := strings.SplitN(key, ":", arnParts)
	if len(parts) != arnParts || parts[0] != "arn" || parts[2] != "kms" {
		return ""
	}
	return parts[3]
}

// KeyAccount is the account that an ARN of a key names; empty for other keys.
func KeyAccount(key string) string {
	if KeyRegion(key) == "" {
		return ""
	}
	return strings.SplitN(key, ":", arnParts)[4]
}

// IsKeyARN reports whether key is a whole ARN of a key.
func IsKeyARN(key string) bool { return KeyRegion(key) != "" && arnResource.MatchString(key) }

// MultiRegion reports whether key has replicas of the same id in other regions.
func MultiRegion(key string) bool {
	return strings.HasPrefix(key[strings.LastIndexAny(key, ":/")+1:], "mrk-")
}

// arnParts are those of arn:partition:kms:region:account:key/id.
const arnParts = 6

// validate reports every broken rule of a block that is there.
func (k KMS) validate() error {
	var all []error
	region := KeyRegion(k.Key)
	arn := IsKeyARN(k.Key)
	if !arn && !keyName.MatchString(k.Key) {
		all = append(all, config.Broken("key", "want arn:aws:kms:REGION:ACCOUNT:key/ID, a key's id, or alias/NAME", k.Key))
	}
	if arn && k.Region != "" && k.Region != region && !MultiRegion(k.Key) {
		all = append(all, config.Broken("region", "want "+region+", which the key is in, or none", k.Region))
	}
	if k.Endpoint != "" && !validEndpoint(k.Endpoint) {
		all = append(all, config.Broken("endpoint", "want https://host or http://host, with a port where it is another", k.Endpoint))
	}
	return errors.Join(all...)
}

// How keys are named.
var (
	arnResource = regexp.MustCompile(`^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:(key/[a-zA-Z0-9-]+|alias/[a-zA-Z0-9/_-]+)$`)
	keyName     = regexp.MustCompile(`^(alias/[a-zA-Z0-9/_-]+|mrk-[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$`)
)

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
	if !c.Encryption.KMS.IsZero() {
		all = append(all, config.Under("encryption.kms", c.Encryption.KMS.validate()))
		if c.Encryption.KeyFile != "" {
			all = append(all, config.Broken("encryption", "want key_file or kms, not both", "both"))
		}
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
