// Package fence decides who may write a stream, and moves that right without
// losing what was acknowledged: the epoch and failover protocol as pure step
// machines.
//
// # Promises
//
// At most one holder writes in an epoch; once R members have promised a higher
// epoch nothing of a lower one becomes durable on W of them; a head chosen from
// R members that know what they had contains every batch that was ever durable
// on W of them; and what is cut from a log was in quarantine before. It does
// not promise that an old holder's process knows that it is over: that is what
// the gate's bounds, leases and the epoch beside every output are for.
//
// # Words
//
// A holder is one run of one agent. A member is one formatted data directory
// (incarnation) of one node. A promise is what a node has sworn; its history says
// what its log has adopted; the two are never mixed. Limbo is the state of a node
// that does not know what it once acknowledged: it takes part in nothing until
// the record names its incarnation. A learner is a node that the record does not
// name: it follows, and counts for nothing. A lease is a node's word to promise
// nobody but its holder for a while; W words let a writer whose gate does not hold
// it put out what is not durable. A handover is where a writer stops of its own
// will, and what it vouches for there.
//
// # Picture
//
//	agent --- Writer          sealed batches, acks -> D, relay, step down
//	            |  ^ Ack
//	            v  |
//	standby - Node (xN)       promise, adopt, limbo, apply limit
//	            ^
//	            | fence, adopt, promote
//	gate --- Controller       S0..S5, F0..F9 over all streams of a service, state = Plan
//	            |
//	            v
//	          etcd            EpochRecord per stream: compare-and-swap
//
// # How a shell drives a core
//
// Every core takes one event at a time and returns effects. Cores hold no
// goroutine, clock, file or socket and are not safe for concurrent use: a shell
// keeps one lock per core. Effects are carried out in the order of the slice;
// those that end in an event may run in the background, and the event is stepped
// when they are done. An effect that failed where its doc says "for good" is
// never retried: the component stops.
//
// Standby shell, per stream, under the stream's lock:
//
//	start:    meta := read file; n, effects := NewNode(meta, durable end of the log, view);
//	          n.Step(Started{boot clock}): a lease of the process before may run from here
//	append:   n.CheckAppend(session epoch, holder, batch epoch) -> log.Append -> n.Received(end)
//	          in ONE hold of the lock: no fence may come between check and append
//	sync:     end := log.Sync() outside the lock; then n.Durable(end) under it; if it
//	          returns an ack, send it (pass a relayed ack on unchanged)
//	commit:   n.Commit(epoch, holder, seq); apply up to n.ApplyTo()
//	lease:    n.Step(LeaseAsked), for members of the session's record only
//	the rest: n.Step(event); a FenceAsked carries the boot clock
//
// NewNode takes the end of a log that was fsynced when it was opened: what a
// killed process left in the page cache is not durable by being readable.
//
// While a Cut is outstanding the shell appends nothing else; while a Fetch is
// outstanding only the fetch appends. CheckAppend refuses during both. Sync ends
// of appends may be reported at any time.
//
// Agent shell: NewWriter(self, record) with the ACTIVE record that names it;
// Sealed for every batch, in order, before it is shipped; OnAck for every ack,
// relayed or not; OnRecord for every change of the record; RelayUp and RelayDown
// for its one session. Durable is D, Floor the lowest seq that must stay in the
// ring. Under a record whose gate does not hold it and names a lease: AskLease
// before each beacon that asks, OnLease for each grant, and LeaseUntil in the same
// step as each release beyond D.
//
// SWITCHING asks the writer to drain: take no new work, finish what is in flight,
// seal a handover batch, wait until D covers it and the target has applied it to
// the same state, release what lies within it and then nothing more, and write
// DEMOTED for all streams in one transaction ([EpochRecord.HandOver]). When the
// answer is lost it has handed over until the record says otherwise. ACTIVE again
// under the same epoch means that the switchover was called off: go on.
//
// A record may name the same run of an agent again, under a later epoch: the shell
// makes a new Writer when an ACTIVE record with a higher epoch names it, and never
// from any other state. A reconfiguration does just that: the old Writer steps
// down at FENCING, the service goes on beside the gate's ceiling as it stands (D
// does not move, and A stays), what was sealed beyond the new record's head is
// sealed again, and acks and leases of the epoch before count for nothing. A relay
// stops fanning out when its writer's session ends.
//
// Gate shell: NewController(plan), Start, then Step for every event; a Tick every
// half second; a Deadline when the patience for a step is over. HandedOver as soon
// as the writer's DEMOTED is in the keys, LeaseOver as AwaitLease demands. After a crash, or
// on another gate: NewController(saved plan), Start: it reads the keys and goes on
// where the keys stand. See [Controller]. Every ReadKeys and Txn is answered, by
// TxnUnknown when nothing better is known. A registry is put back from a backup
// with its revisions moved forward (etcdutl snapshot restore --bump-revision):
// compare-and-swap is no defence once a revision number is used twice.
//
// # Logs that were trimmed
//
// A log may begin in the middle. Questions about what is gone are answered by an
// error, and what would need them is refused: the cut below a log's beginning, the
// proof of a head that is not there. A node whose log is empty may adopt an epoch
// whose head nobody keeps: its shell makes the log begin where that of a node
// begins which has adopted the same term, and says so in Fetched.Beyond. One
// writer per epoch makes that log the only one that goes on from the head. The
// shell states nothing of it before batches follow; it is empty for the core
// until then.
//
// # Durability
//
// The package writes nothing. The order Persist -> Persisted -> reply is the
// core's; a shell that reports Persisted or Synced early breaks every promise
// above.
package fence
