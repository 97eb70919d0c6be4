// Command rto measures how long a failover of a PostgreSQL service takes, phase by
// phase, up to the first write that a client was told of: `make rto-postgres`.
//
// Each round has two turns, each on servers of its own: a warm standby that is up to
// date, and one that has some log still to replay, which it was kept from. Under
// pgbench and clients with a log of their commits the whole primary site is killed
// (kill -9); the gate's synthetic client notices, and an operator fails over at once.
// The phases are those of `tidegate plan show`; the RTO is the clients' own, from the
// kill to the first commit that one of them was told of. A turn in which a confirmed
// commit is missing afterwards, or a phase is unknown, fails.
//
// All servers run with fsync on and logged tables, and both sites share one machine:
// a site of its own is faster.
package main
