package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// network gives each site of a lab a network namespace of its own, so that
// whole sites can be cut apart, in one direction too, while every daemon runs
// as it would in production. It needs root and the ip command.
//
//	root namespace: bridge 10.213.x.1 -- the test, its etcd
//	                  |-- east  10.213.x.2
//	                  |-- west  10.213.x.3
//	                  |-- north 10.213.x.4
//
// What daemons serve on a loopback interface only stands at 127.213.x.2 and so on
// inside its site, and is reached from outside by reach.
type network struct {
	name  string // of the bridge; prefix of the namespaces
	block int    // third byte of the addresses
	made  []string
}

// netSites are the sites in the order of their addresses.
var netSites = []string{SitePrimary, SiteDR, SiteWitness}

// netSlots are how many blocks of addresses are tried: another lab may run.
const netSlots = 250

// netTries are how many of those blocks may turn out to be half in use.
const netTries = 8

func ip(args ...string) error { return iproute("ip", args...) }
func tc(args ...string) error { return iproute("tc", args...) }

func iproute(command string, args ...string) error {
	out, err := exec.Command(command, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", command, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// newNetwork makes bridge and namespaces. What it made before it failed is gone
// again when it returns an error.
func newNetwork() (*network, error) {
	var err error
	for first, i := rand.IntN(netSlots), 0; i < netSlots; i++ {
		n := &network{block: 1 + (first+i)%netSlots}
		n.name = fmt.Sprintf("tglab%d", n.block)
		if err = ip("link", "add", n.name, "type", "bridge"); err != nil {
			continue
		}
		if err = n.build(); err == nil {
			return n, nil
		}
		// The kernel takes a namespace apart after it is gone: its links may still have the names.
		if err = errors.Join(err, n.close()); i >= netTries {
			break
		}
	}
	return nil, fmt.Errorf("make a network for the lab's sites (needs root and iproute2: sudo -E go test ./internal/lab): %w", err)
}

func (n *network) build() error {
	steps := [][]string{
		{"addr", "add", n.host("") + "/24", "dev", n.name},
		{"link", "set", n.name, "up"},
	}
	for _, site := range netSites {
		ns, here, there := n.ns(site), n.name+site[:1], n.name+site[:1]+"i"
		steps = append(steps,
			[]string{"netns", "add", ns},
			[]string{"link", "add", here, "type", "veth", "peer", "name", there},
			[]string{"link", "set", there, "netns", ns},
			[]string{"link", "set", here, "master", n.name, "up"},
			[]string{"-n", ns, "addr", "add", n.host(site) + "/24", "dev", there},
			[]string{"-n", ns, "link", "set", there, "up"},
			[]string{"-n", ns, "link", "set", "lo", "up"},
		)
	}
	for _, s := range steps {
		if err := ip(s...); err != nil {
			return err
		}
		if s[0] == "netns" {
			n.made = append(n.made, s[2])
		}
	}
	return nil
}

func (n *network) ns(site string) string { return n.name + "-" + site }

// host returns a site's address; "" is the root namespace's.
func (n *network) host(site string) string {
	last := 1
	for i, s := range netSites {
		if s == site {
			last = 2 + i
		}
	}
	return fmt.Sprintf("10.213.%d.%d", n.block, last)
}

// loopback returns a site's address for what is served to its own machine only.
func (n *network) loopback(site string) string {
	_, rest, _ := strings.Cut(n.host(site), ".")
	return "127." + rest
}

// reached is a client that gets into the sites' own loopback interfaces.
var reached = &http.Client{Transport: &http.Transport{DialContext: reach}}

// reach dials addr, from inside the site that it stands in if it is a loopback
// address of a lab's site.
func reach(ctx context.Context, proto, addr string) (net.Conn, error) {
	var d net.Dialer
	var block, last int
	if n, err := fmt.Sscanf(addr, "127.213.%d.%d:", &block, &last); n < 2 && err != nil {
		return d.DialContext(ctx, proto, addr)
	}
	if last < 2 || last >= 2+len(netSites) {
		return nil, fmt.Errorf("dial %s: no site of a lab", addr)
	}
	n := network{name: fmt.Sprintf("tglab%d", block)}
	there, err := os.Open("/run/netns/" + n.ns(netSites[last-2]))
	if err != nil {
		return nil, err
	}
	defer there.Close() //nolint:errcheck // only named a namespace
	// The socket belongs to the namespace its thread is in when it is made. All
	// threads of this process but those that are in here now are in the same; the
	// process's own entry in /proc is that of its first thread, which may be one of them.
	runtime.LockOSThread()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer here.Close() //nolint:errcheck // only named a namespace
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("enter %s: %w", there.Name(), err)
	}
	conn, err := d.DialContext(ctx, proto, addr)
	if back := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); back != nil {
		return nil, fmt.Errorf("leave %s: %w", there.Name(), back) // the thread stays locked, and dies with its goroutine
	}
	runtime.UnlockOSThread()
	return conn, err
}

// cut drops what a site sends to another; what comes the other way arrives.
func (n *network) cut(from, to string) error {
	return ip("-n", n.ns(from), "route", "replace", "blackhole", n.host(to)+"/32")
}

func (n *network) mend(from, to string) error {
	return ip("-n", n.ns(from), "route", "del", "blackhole", n.host(to)+"/32")
}

// The queue of a throttled link: what it holds back at most, and how much goes at once.
const (
	linkQueue = "300ms"
	linkBurst = "16kb"
)

// throttle bounds the rate of everything that goes to and comes from a site.
func (n *network) throttle(site, rate string) error {
	here := n.name + site[:1]
	shape := func(dev string) []string {
		return []string{"qdisc", "replace", "dev", dev, "root", "tbf", "rate", rate, "burst", linkBurst, "latency", linkQueue}
	}
	return errors.Join(tc(shape(here)...), tc(append([]string{"-n", n.ns(site)}, shape(here+"i")...)...))
}

func (n *network) unthrottle(site string) error {
	here := n.name + site[:1]
	return errors.Join(tc("qdisc", "del", "dev", here, "root"), tc("-n", n.ns(site), "qdisc", "del", "dev", here+"i", "root"))
}

// close removes everything. The namespaces' ends of the links go with them.
func (n *network) close() error {
	var errs []error
	for _, ns := range n.made {
		errs = append(errs, ip("netns", "del", ns))
	}
	return errors.Join(append(errs, ip("link", "del", n.name))...)
}

// within returns the arguments that run a program inside a site.
func (n *network) within(site string, args []string) []string {
	return append([]string{"ip", "netns", "exec", n.ns(site)}, args...)
}

// Cut drops everything that one site sends to another, silently, until Mend;
// the other direction is open. A site named "" is where the caller's registry is.
// The lab must have been made with Networks.
func (l *Lab) Cut(from, to string) error { return l.net.cut(from, to) }

// Mend ends Cut.
func (l *Lab) Mend(from, to string) error { return l.net.mend(from, to) }

// Throttle bounds the rate of a site's link, which all that it sends and is sent shares,
// to one of tc's: 256kbit. What does not fit queues, then is dropped, until Unthrottle. The
// lab must have been made with Networks.
func (l *Lab) Throttle(site, rate string) error { return l.net.throttle(site, rate) }

// Unthrottle ends Throttle.
func (l *Lab) Unthrottle(site string) error { return l.net.unthrottle(site) }
