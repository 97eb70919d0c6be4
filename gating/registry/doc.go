// Package registry keeps what a cluster must agree on, in etcd: services,
// streams, registered nodes, epoch records with their history, plans, routes
// quarantine reports, output leases, and the audit trail.
//
// It promises that every write is a compare-and-swap transaction over the
// revisions the writer read, and that one transaction may cover all streams of
// a service. It does not decide anything: which record may follow which is the
// business of packages fence and gating.
//
// # Words
//
//   - table:    the records under one prefix, JSON, one key each
//   - live:     the tables that a [View] holds; small, read as a whole
//   - revision: etcd's counter; of a record, that of its last change
//   - lease:    the output lease of a service's writer, on a lease of etcd, so that
//     it ends by itself
//   - audit:    who did what; an entry is part of the transaction that did it
//   - cursor:   how far a receiver of notifications has been told of the audit trail
//   - mark:     newest revision this gate has seen, kept beside the gate's data,
//     so that a registry restored from a backup is recognised
//
// # Picture
//
//	gating --Commit(Tx)--> [Store] --grpc--> etcd (embedded [Server], or a cluster)
//	gating <--View-------- [Store.Follow]
//
// A Store may be used concurrently. Commit returns after etcd has made the
// transaction durable on a majority of its members.
//
// Keys, all under /tidegate/<cluster>/:
//
//	live/services/<service>   live/streams/<id>   live/names/<service>/<stream>
//	live/nodes/<kind>/<node>  live/epochs/<id>    live/routes/<service>
//	live/drills/<service>     live/schedules/<service>
//	history/<id>/<epoch>      plans/<id>          plans-of/<service>/<plan>
//	quarantine/<stream>/<bundle>                  election/
//	leases/<service>          audit/<id>          notify/<receiver>
//	overrides/<service>/<rule>
package registry
