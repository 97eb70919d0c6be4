// Package names has the drivers that set a server's synchronous_standby_names,
// whoever owns that setting there.
//
// Promise: a driver that returns no error has asked the setting's owner, and the
// owner has taken it. Not promised: that it is in force; whoever calls sees to that
// by asking the server, on an ordinary connection, and holds nothing for protected
// before the server says so. A driver that is not sure that the owner obeys says so.
//
// # Words
//
//   - names:        the setting's text, "" for nobody
//   - alter-system: the server itself is the owner
//   - patroni:      Patroni is; it writes the server's files, and is asked over its
//     REST API for a change of the dynamic configuration of its whole cluster
//   - exec:         a program of the operator's knows who is
//
// # Picture
//
//	capture --Set--> alter-system --SQL--> server
//	                 patroni --PATCH /config--> Patroni --> its store --> every Patroni --> server
//	                 exec --program--> ...
//	capture --SHOW-------------------------------------------------------> server
//
// Patroni sets the names by itself while its synchronous_mode is on, and only to
// members of its own cluster: then there is nothing to be set, and the driver says so
// and changes nothing. It never changes synchronous_mode: which of its replicas
// Patroni may promote hangs on it.
//
// A driver may be called from one goroutine at a time.
package names
