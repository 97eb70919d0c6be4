// Package sim runs whole clusters of the pure cores of gating/fence in one
// goroutine, under one seed, and checks after every step that the protocol's
// invariants hold.
//
// It promises that a seed gives the same run, bit for bit, on any machine, and
// that the cores it drives are the ones that production drives: it holds shells
// of its own (disk, network, registry) but no protocol. It does not model
// payloads, flow control, leases, or time beyond its order.
//
// Words: a world is one simulated cluster; the nemesis is what breaks it; the
// oracle knows everything and judges. Chaos is the first phase of a run, in which
// the nemesis acts; then the world heals and must converge.
//
//	        nemesis                         oracle (I1-I9, I14, I15, I18, I21, I22, I24)
//	           |  crash, wipe, cut, restore    ^ every promise, ack, append, cut, release, txn
//	           v                               |
//	agents -> network -> standbys   gates -> registry
//	Writer    loss,      Node       Controller  compare-and-swap, outages,
//	          dup,                              restored from a backup
//	          reorder
//
// A run is not safe for concurrent use and shares nothing with other runs.
// Nothing is written to disk.
package sim
