// Package lab runs a whole Tidegate on one machine out of real processes: a
// primary site with its replicated ledger and agents, a DR site with standby
// nodes and warm followers, a gate and a route at a third place. The demo, the
// soak and the benchmarks are written against it. A plant without the ledger has
// its caller's service: a journal of the caller's own, or a PostgreSQL server.
//
// It writes the same configuration files and calls the same commands as an
// operator does, so what works here works from the README. Nothing in it is a
// stand-in: certificates, sockets, disks, kill -9 and SIGSTOP are real.
//
// The package's own tests are the system tests: faults under load, one after the
// other, each ending in what clients were told against what is there. They build
// the binaries, without the race detector, and take minutes. They need root, for a
// disk that can be filled and for sites with networks of their own, which are cut
// in one direction or both, and strace, which makes a sync fail; a fault at every
// single operation is for the tests over the file-system seam.
//
// # Words
//
//   - lab:   the directory with its processes, from New to Close
//   - plant: what stands in it: how many nodes of each kind, which gate mode
//   - act:   one disaster and what follows, by the caller
//
// A Lab belongs to one goroutine except where a method says otherwise. It keeps
// no durable state of its own; its directory holds what the processes wrote.
package lab
