// Package pglab is a lab whose service is a real PostgreSQL server: a primary, with
// an ordinary replica beside it if asked for, one agent, three standby nodes of
// which the first has a warm hot standby, a gate and a route. `make demo-postgres`
// and the rounds of `make soak-postgres` are written against it.
//
// What is judged after a disaster does not rest on what the product says: clients
// keep a log of the commits that they were told of; and a copy of the primary that
// was taken before the load, recovered by PostgreSQL itself from the log that the
// killed primary left, up to the position of the promotion, must hold what the
// promoted server holds.
//
//	primary --+-- replica            d1: standby node --- warm hot standby <-- route
//	          |                      d2: standby node
//	          +-- agent ---ship----> d3: standby node
//	pgbench --+                                    clients -- route -- (primary, later d1)
//	copy of the primary, before the load
//
// With Cluster the replica has an agent, too, and may be promoted: [Lab.Promote].
//
// With Returns a standby daemon beside the primary takes the old primary over once
// it has come back, for the way home.
//
// pgbench speaks to the primary itself and ends with it, so its tables stay on the
// promoted server as they were at the position of the promotion.
//
// Servers keep fsync on. A Lab belongs to one goroutine except where a method says
// otherwise. [Lab.Close] ends everything.
package pglab
