// Command demo runs the main job on one machine, with real processes, and
// shows what came of it.
//
// With the ledger: act one, kill -9 of everything on the primary site, sync mode.
// Act two: the primary site is cut off and frozen (SIGSTOP), failed over, then
// thawed. After each act the demo compares what clients were told with what the
// DR site holds and ends with a table; exit 0 only if everything held.
//
// With --postgres the service is a PostgreSQL server with a replica, under pgbench
// and clients that keep a log of the commits they were told of. Act one: kill -9 of
// both servers and the agent, sync mode. Act two: the link stops, then the site is
// killed, bounded mode; the old primary comes back, confirms nothing, is made a
// follower with its tail in quarantine, and the service fails back to it.
package main
