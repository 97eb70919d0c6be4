package tidy

import (
	"fmt"
	"sort"
	"strings"
)

// Floor is where a package stands in the house. The tens are the floors of
// docs/ARCHITECTURE.md; the ones order packages that share a floor there and
// are, as parent and part, not equals. Imports go to a strictly lower number.
type Floor int

// Entry is one package of the house: its folder, its floor and why it is there.
type Entry struct {
	Dir    string
	Floor  Floor
	Reason string
}

// House lists every package. A package that is not here fails the test: where
// it stands is a decision, and it is taken by writing this line.
func House() []Entry {
	return []Entry{
		{".", 0, "the vocabulary: imports only the standard library, imported by all"},
		{"internal/clock", 1, "boot and wall time behind one interface"},
		{"internal/config", 1, "strict reading of files, knows no role"},
		{"internal/invariant", 1, "broken invariants, and nothing else"},
		{"internal/mutate", 1, "names of rules that a test build can break; imports nothing"},
		{"internal/procgroup", 1, "processes that are ended with what they have started"},
		{"internal/pgrun", 1, "real PostgreSQL servers on this machine"},
		{"internal/pgtest", 2, "the same for tests, which fail with them"},
		{"internal/racetest", 1, "tests that run without the race detector; imports nothing"},
		{"internal/retry", 1, "the one back-off policy"},
		{"internal/tidy", 1, "reads source, imports nothing of ours"},
		{"internal/vfs", 1, "the file-system seam"},
		{"internal/vfs/vfstest", 2, "the conformance suite of file systems, for their tests"},
		{"internal/wire", 1, "frames and field encoding, knows no message"},
		{"internal/durable", 2, "atomic durable writes, on vfs"},
		{"internal/quarantine", 3, "what was moved out of the way: one summary for every package, and the list of it"},
		{"internal/pki", 3, "certificates and identities, written durably"},
		{"internal/rates", 3, "the operator's files of rates, on config, clock and durable"},
		{"internal/seglog", 3, "the one segment log, on vfs and durable"},

		{"api/tidegatev1", 10, "generated messages"},
		{"api/tidegatev1/tidegatev1connect", 11, "generated clients and handlers of those messages"},
		{"api", 12, "conversion between messages and vocabulary"},
		{"batch", 10, "the sealed batch"},
		{"rpo", 10, "pure arithmetic of ceiling and exposure"},
		{"gating/fence", 10, "pure cores of epochs and failover"},
		{"gating/fence/model", 11, "explicit-state search of the fence protocol, for its tests"},
		{"gating/rules", 11, "pure rules of role changes, over what fence claims"},
		{"gating/detect", 11, "pure detector of a primary that is down"},
		{"gating/machine", 10, "pure state machine of a gate at the edge of its bounds"},
		{"gating/release", 12, "pure: ceiling and machine of one stream under an agent's grants, for every store"},
		{"internal/local", 11, "frames between library and node; they carry the machine's states"},

		{"archive/bucket", 12, "objects: the interface of buckets and what goes around every driver"},
		{"archive/bucket/buckettest", 13, "the conformance suite of buckets, for their tests"},
		{"archive/bucket/dir", 13, "the driver whose bucket is a directory"},
		{"archive/bucket/encrypt", 13, "what lies in a bucket, unreadable to whoever keeps it"},
		{"archive/bucket/s3api", 13, "what drivers of S3 servers have in common"},
		{"archive/bucket/s3api/s3test", 14, "those drivers against real servers, for their tests"},
		{"archive/bucket/place", 14, "a bucket out of its configuration, and out of the drivers that a binary has"},
		{"archive/bucket/awschain", 14, "what Amazon's library is told: its own chain of credentials, no tries of its own"},
		{"archive/bucket/s3", 15, "the driver by aws-sdk-go-v2"},
		{"archive/bucket/kms", 15, "an archive's keys under a key of AWS KMS"},
		{"archive/bucket/minio", 14, "the driver by minio-go"},
		{"archive/bucket/kms/kmstest", 16, "a small server of the KMS protocol, for its tests"},
		{"archive/bucket/open", 16, "a bucket out of its configuration; links every driver"},

		{"gating/probe", 13, "synthetic clients: the interface of their kinds, and the kind http"},

		{"snapshot", 19, "bases: files by the content of their pages; stores hand them over, shipper carries them"},

		{"stores", 20, "what a store must offer"},
		{"stores/postgres/replication", 21, "the client of PostgreSQL's replication protocol"},
		{"stores/storestest", 21, "the conformance suite of stores, for their tests"},
		{"stores/postgres/walsender", 21, "the sending end of streaming replication, over a log that others keep"},
		{"journal", 20, "the public library"},
		{"shipper", 20, "the crossing"},
		{"shipper/drop", 21, "connections by way of a bucket, for sessions that cross when no packet does"},
		{"archive", 21, "what lies in a bucket: streams, segments of sealed batches, mirrors of bases"},
		{"archive/archivetest", 22, "archives for tests"},
		{"archive/live", 22, "a standby node's log and base, read as if they were an archive"},
		{"archive/restore/past", 20, "how long this machine's restores and replays took, and so how long the next one will"},
		{"archive/restore", 22, "the cold restore: a base and the log behind it, out of an archive, into a directory"},
		{"standby/deltalog", 20, "sealed batches over seglog"},
		{"stores/postgres/wal", 20, "PostgreSQL's log, pure: positions, timelines, the parser"},
		{"stores/postgres/server", 21, "the real server on a node: restored, followed, promoted"},
		{"stores/postgres/restore", 22, "rebuilds a PostgreSQL server from a base and its log alone"},
		{"stores/postgres/restore/restoretest", 23, "a primary whose base and log are archived, for tests"},
		{"stores/journal/base", 20, "what a journal's base is: nodes make and give them, restores read them"},
		{"stores/journal/restore", 21, "rebuilds a journal from its log, alone or behind a base"},
		{"stores/journal/replay", 23, "feeds a range of an archive to a service in a sandbox, and compares digests"},
		{"stores/postgres/apply", 30, "the standby's side of the PostgreSQL store: plays the library to it, with a warm server behind"},

		{"stores/postgres/probe", 22, "the synthetic client of PostgreSQL services"},
		{"stores/postgres/names", 22, "drivers of synchronous_standby_names, whoever owns it"},
		{"stores/postgres/capture", 30, "the agent's side of the PostgreSQL store"},
		{"stores/journal/capture", 30, "the agent's side of the journal store"},

		{"gating/fencewire", 37, "conversion between fence and the API's messages"},
		{"gating/registry", 38, "etcd behind the controller's own interface; the only one that knows etcd"},
		{"gating/backup", 39, "copies of the registry in an archive"},
		{"gating/notify", 39, "webhooks and programs that are told of audit entries"},
		{"gating/route", 39, "route drivers and the TCP proxy, which runs without a gate"},
		{"agent", 40, "every node that may be active"},
		{"standby", 40, "every node that keeps a log"},
		{"gating", 40, "the controller"},

		{"drills/schedule", 10, "pure: when a drill is due"},
		{"drills/recovery", 50, "pure: how a service recovered, from its outputs, and what was to be expected"},
		{"drills/recovery/program", 51, "programs of their own under the test of operator classes"},

		{"internal/cli", 50, "the frame of every command"},
		{"internal/daemon", 50, "the frame of every long-running role"},
		{"internal/daemon/agentd", 51, "the agent's process out of its file, for its binary and for `tidegate dev`"},
		{"drills/judge", 50, "pure: verdicts of drills, and their phases against history"},
		{"drills/assert", 56, "service-level assertions, and what came of them"},
		{"drills/probe", 56, "what a drill asks of a service that it has recovered"},
		{"drills/shadow", 57, "the drill of level L1: promotes an isolated clone of a warm service"},
		{"drills/live", 58, "drills of levels L2 to L4: the live service moves, or meets a fault"},
		{"drills/worker", 50, "takes drills from gates, has them run, and says how they ended"},
		{"drills/evidence", 55, "reports of drills, signed and chained, and their proof"},
		{"internal/sim", 50, "the simulator: drives the pure cores"},

		{"examples/ledger/ledger", 60, "the example's state machine, pure"},
		{"examples/ledger/api", 61, "its HTTP messages"},
		{"examples/ledger/client", 62, "its client"},
		{"examples/ledger/daemontest", 62, "the daemon's end of the local socket, for its tests"},
		{"examples/ledger/book", 63, "the state machine over the journal library"},
		{"examples/ledger/cluster", 64, "its raft"},
		{"examples/ledger/server", 64, "its HTTP server"},
		{"examples/ledger/node", 65, "cluster, book and server of one node"},
		{"examples/ledger", 66, "the example's binary"},

		{"internal/lab", 67, "a whole Tidegate on one machine, of real processes; speaks with the ledger"},
		{"internal/lab/pglab", 68, "the same around a PostgreSQL server"},
		{"bench/postgres", 70, "the same for PostgreSQL, beside its own means"},
		{"bench/figure", 69, "what the measurements have in common"},
		{"bench/restore", 70, "bases and restores of PostgreSQL, beside pgBackRest and the disk"},
		{"bench/rto", 70, "how long a failover of a large PostgreSQL server takes, phase by phase"},
		{"bench", 70, "the measurements, beside the machine's own limits"},
		{"examples/demo", 70, "the demonstration"},
		{"examples/soak", 70, "kill -9 under load, round after round"},
		{"cmd/tidegate", 70, "gate, standby, route and operator's commands"},
		{"cmd/tidegate-agent", 70, "the agent's binary"},
	}
}

// Floors reports packages that the house does not list, entries without a
// package or a reason, and imports that do not point down.
func (t *Tree) Floors(house []Entry) []string {
	var found []string
	floor := map[string]Floor{}
	for _, e := range house {
		floor[e.Dir] = e.Floor
		if e.Reason == "" {
			found = append(found, fmt.Sprintf("%s: listed in the house without a reason", e.Dir))
		}
		if t.Package(e.Dir) == nil {
			found = append(found, fmt.Sprintf("%s: listed in the house, but there is no such package", e.Dir))
		}
	}
	for _, p := range t.Packages {
		from, listed := floor[p.Dir]
		if !listed {
			if p.hasSource() {
				found = append(found, fmt.Sprintf("%s: not listed in the house: give it a floor and a reason in internal/tidy", p.Dir))
			}
			continue
		}
		for dir, file := range t.imports(p) {
			to, ok := floor[dir]
			if ok && to >= from {
				found = append(found, fmt.Sprintf("%s: %s (floor %d) imports %s (floor %d): imports point down", file, p.Dir, from, dir, to))
			}
		}
	}
	sort.Strings(found)
	return found
}

// imports maps the folders of this module that p's source (not its tests)
// imports to one file that does.
func (t *Tree) imports(p *Package) map[string]string {
	out := map[string]string{}
	for _, f := range p.Files {
		if f.Test {
			continue
		}
		for _, path := range f.Imports {
			if path == t.Module {
				out["."] = f.Path
			} else if dir, ours := strings.CutPrefix(path, t.Module+"/"); ours {
				out[dir] = f.Path
			}
		}
	}
	return out
}

// AgentDeps reports what the agent binary must not carry, given the import
// paths of everything it links: etcd and grpc belong to the gate, and of the libraries
// of object stores the smaller one is enough to cross by a bucket.
func AgentDeps(deps []string) []string {
	var found []string
	for _, d := range deps {
		for _, banned := range []string{"go.etcd.io/", "google.golang.org/grpc", "github.com/aws/"} {
			if strings.HasPrefix(d, banned) {
				found = append(found, "cmd/tidegate-agent: links "+d+": the agent is small and talks to gates only")
			}
		}
	}
	return found
}
