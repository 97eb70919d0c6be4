// Package durable writes small files and directories so that they survive a
// power cut, bytes and name alike. It is the only place that knows the recipe:
// temporary file in the same directory, write, sync, close, rename, sync of the
// directory.
//
// Promise: when a function returns nil its effect survives. When it returns an
// error the old state or the new one is there, never a mixture, and repeating
// the call is safe unless the error came from a sync: then stop.
//
// Two writers of one path must not run at the same time; otherwise everything
// may be called concurrently.
package durable
