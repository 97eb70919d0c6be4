// Package restore rebuilds a PostgreSQL server from a base and its log alone.
//
// Promise: the log that is laid was parsed to its end, record by record; it ends at a
// record end, at or before the target, and never before the base is consistent; the
// server that is started on it replays all of it, and begins a timeline of its own
// there. Until all is durable nothing has the name of a data directory. Not promised:
// that the operator's own settings fit this machine; nothing of the primary's
// archiving, replication or addresses is taken over.
//
// # Picture
//
//	batches --> [Restorer.Batch] --> wal.Parser --> pg_wal, zeros behind the target
//	base    --> [Restorer.Create] --> data
//	                                   |
//	            [Restorer.Finish]: recovery.signal, settings, the name
//	            [Restorer.Start]: postgres recovers, and takes writes
//
// One goroutine at a time uses a Restorer, but as stores.Restorer says.
package restore
