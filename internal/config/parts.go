package config

import (
	"errors"
	"net"
	"path/filepath"
	"strconv"

	"github.com/tidegate/tidegate"
)

// Node is the head of every role's file: who this process is. It must agree
// with the certificate, which is what peers believe.
type Node struct {
	Cluster string            `yaml:"cluster"`
	Site    tidegate.SiteName `yaml:"site"`
	Name    tidegate.NodeName `yaml:"name"`
}

// Validate checks the three names.
func (n Node) Validate() error {
	return errors.Join(
		Name("cluster", n.Cluster),
		Name("site", string(n.Site)),
		Name("name", string(n.Name)),
	)
}

// TLS names the three files that mutual TLS needs, all PEM.
type TLS struct {
	CA   string `yaml:"ca"`   // certificates of the cluster's authority
	Cert string `yaml:"cert"` // this process's certificate, with its URI SAN
	Key  string `yaml:"key"`  // its private key
}

// Validate checks that the paths are there and absolute; the files themselves
// are read when the role starts.
func (t TLS) Validate() error {
	return errors.Join(AbsPath("ca", t.CA), AbsPath("cert", t.Cert), AbsPath("key", t.Key))
}

// Name checks a node, site, service or stream name.
func Name(path, name string) error {
	if err := tidegate.ValidName(name); err != nil {
		return Broken(path, "want 1 to 63 of a-z, 0-9 and '-', starting with a letter, not ending with '-'", name)
	}
	return nil
}

// AbsPath checks a file or directory name: a daemon's working directory is
// nobody's choice, so relative names are refused.
func AbsPath(path, name string) error {
	if !filepath.IsAbs(name) {
		return Broken(path, "want an absolute path", name)
	}
	return nil
}

// Reachable checks an address that others dial: every address (an empty host,
// 0.0.0.0, ::) is nobody's address.
func Reachable(path, addr string) error {
	if err := HostPort(path, addr); err != nil {
		return err
	}
	host, port, _ := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); host == "" || port == "0" || ip != nil && ip.IsUnspecified() {
		return Broken(path, "want the host:port under which it is reached", addr)
	}
	return nil
}

// HostPort checks an address to dial, or, with an empty host, to listen on.
func HostPort(path, addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 && port != "0" {
		return Broken(path, "want host:port", addr)
	}
	return nil
}

// AtLeast checks a lower limit.
func AtLeast[N interface{ ~int | ~int64 }](path string, n, least N) error {
	if n < least {
		return Broken(path, "want at least "+show(least), n)
	}
	return nil
}
