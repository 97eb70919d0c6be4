// Command restore measures what bases and the archive are worth on the night that they
// are for, beside pgBackRest and beside the disk: `make bench-restore`.
//
// Promise: one database, one disk, one run. What is compared is done in turns, the
// same number of cores for each, from a repository that is not in the page cache, to
// files and directories that are synced. A restored server of each side is started, and
// must hold what the primary held. Not promised: that figures of two runs can be
// compared, ratios aside.
//
// # Words
//
//   - ours:  the base that an agent takes, over TLS, to a standby node and from there
//     into an archive that is a directory; later ones of the node's warm server.
//     Back by `tidegate restore` out of the archive alone
//   - theirs: pgBackRest, as the server's account, with its files bundled and as many
//     processes as there are cores; once with zst, once with lz4
//   - limit: the same files out of compressed chunks that are read, opened, written and
//     synced, and nothing else
//   - change: 1 % of the database's pages is updated, in a row or anywhere
//
// # Picture
//
//	primary -> agent -> standby node -> archive -> tidegate restore -> DIR
//	primary -> pgBackRest's repository  -> pgbackrest restore        -> DIR
//	chunks  -> open, write, sync                                     -> DIR
//
// What is written lies in directories of its own and is removed.
package main
