// Package procgroup ends processes with all that they have started, and signals nobody
// else's.
package procgroup
