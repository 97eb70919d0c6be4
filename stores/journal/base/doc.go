// Package base is what a journal's base is: the state of the service that followed the
// journal, as one stream, complete where it begins, and beside it what a journal must be
// told to begin there.
package base
