// Command ledger is the demo service of Tidegate: a replicated, event-sourced
// money ledger whose answers wait for the gate.
//
//	ledger node    takes part in the primary site's raft cluster
//	ledger follow  follows at the DR site, and serves after a failover
//	ledger load    transfers money and writes down what was acknowledged
//	ledger check   compares what was acknowledged with what a node holds
//
// Exit codes: 0 done, 1 failed, 2 misuse, 3 the check's answer is no. README.md
// beside it shows every command at work.
package main
