// Package gating is the gate: the controller that decides who may write a
// service's streams, runs every change of writer (starts, failovers, switchovers,
// failbacks) and of the standby set as a recorded plan, grants output leases,
// records what gates do, and answers agents, standby nodes, routes and operators.
//
// It promises that a plan begun by a gate that is killed at any step is finished
// by another one; that no two holders are ever active in one epoch; that a
// failover's loss statement is never more optimistic than the records allow; and
// that a refusal names every rule that said no. It does not carry data: while
// the gate or its registry is down, streams flow on and only role changes wait.
//
// # Words
//
//   - plan:    one change of writer of one service; see package fence
//   - leader:  the one gate that runs plans; any gate answers everything else
//   - world:   what agents, standby nodes and routes last reported; in memory only
//   - part:    a failback is up to two plans; the record of the first one names the
//     second, so that any leader begins it
//   - entry:   of the audit trail, written in the transaction of the deed; a receiver
//     is told of it by the leader (package notify)
//   - verdict: the answer to "are we safe?"; what is not known is never safe
//
// # Picture
//
//	agents, standbys, routes --NodeService--> [Gate] <--OperatorService-- operators
//	                                            |  world (memory)
//	                                            |  registry (etcd)
//	                                            +--StandbyService--> standby nodes
//	                                            +--Switch--> route drivers
//
// # How a plan is carried out
//
// The pure core is fence.Controller. A runner does its effects in order: it
// writes the plan's record before any message of the next step leaves, sends
// messages in the background, and steps the core with what comes back. Every
// write demands that this gate still leads. After a restart the new leader
// reads the newest unfinished plan of each service and goes on where the epoch
// keys stand.
//
// A service has at most one unfinished plan. A plan begins in a transaction that
// compares the service's and its streams' records with those its rules were
// asked about, so that a freeze, the brake or a removed stream in between is never
// overlooked. A more urgent plan goes before a less urgent one (failovers before
// planned changes before starts); what a replaced switchover asked of the writer is
// taken back.
//
// A Gate's methods may be called concurrently. What it writes is durable in the
// registry before it is acted upon. docs/operating/failover.md is the operator's
// side of all this.
package gating
