// Package sim runs whole clusters of Tidegate's pure cores in one goroutine,
// under one seed, and checks while they run that the protocol's invariants hold.
//
// It promises that a seed gives the same run, bit for bit, on any machine, and
// that the cores it drives are the ones that production drives: gating/fence
// (Node, Writer, Controller, the epoch record), rpo (Ceiling, DrainRate, Throttle),
// gating/machine and gating/detect. It holds shells of its own (disk, network, clocks, registry,
// journal, local socket) and no protocol. Not promised: that a run which finds
// nothing proves anything; what makes its silence mean something is that each rule
// of internal/mutate, broken, is found within a bounded number of seeds.
//
// # Words
//
//   - world: one simulated cluster, with the operators' settings and the faults that
//     its seed has drawn
//   - nemesis: what breaks it, operators included
//   - oracle: knows everything, helps nobody, and judges
//   - chaos: the first phase, in which the nemesis acts; then a random core of the
//     standby nodes is healed (W of them, R that know what they had), the rest stays
//     as it is, and the world must converge
//
// # Picture
//
//	            nemesis                       oracle
//	               |  crash, wipe, flip,        ^ every promise, ack, append, cut,
//	               |  cut, clog, sleep, order   | release, transaction, claim
//	               v                            |
//	client -> library -- agent ---------> standbys          gates ------> registry
//	   ^      Ceiling    Writer   loss,   Node (xN)         Controller    compare-and-swap,
//	 route    Machine             dup,    relay, warm       marks         outages, put back
//	          journal             reorder library                        from a backup
//
// # What is checked
//
// After the event: I1-I5, I7-I14, I16, I18, I20-I22, I24, I25, I29. Every 200 ms:
// I19. When an epoch opens: I6, I14, I17, and I23 of one that an agent acquired, which
// states no loss: what was released before is in the log or in the new writer's
// journal, unless the record says that it knows nothing of the past. At the end of a world, when nothing more
// will be released: I15, I17, I23. At its healing: I28. I16 between holders is
// checked where leases were waited for and nobody attested anything. I25 is the
// writer's ring: journals and delta logs are not trimmed here. I26 and I27 belong to
// snapshots and drills, which do not exist yet. Of the detector: D1, it begins nothing
// while a vantage point that can be believed hears the primary; D2, a primary that is
// heard and gets nothing done is not called up.
//
// # What is assumed
//
// At most W-1 members of a configuration lose what they had, unless an operator lets
// fewer than R of them choose: then the record says so, what lies beyond the head is
// given up, and who adopts it does not know what it had until an epoch is open; and
// whoever forces and attests has seen to it that the old writer's agent is gone. The
// primary site's own consensus lets only its leader append; a registry that is put back
// with its revisions moved forward has a new cluster id; a backup is at least as old as
// the time between two pulses of a gate.
//
// A run is not safe for concurrent use and shares nothing with other runs, so that
// any number may run at once. Nothing is written to disk.
package sim
