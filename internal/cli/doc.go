// Package cli is the frame that every command of the product stands in: how
// arguments are read, how a result, an error and its hint are printed, and
// which exit code a process ends with.
//
// Promise: the exit code is decided in one place, [CodeOf], from the class or
// condition of an error or from its Connect code; a command never picks a
// number. Errors go to stderr as "program: op subject: cause" with the hint on
// a line of its own; results go to stdout, as text or, with -o json, as JSON.
//
// # Picture
//
//	main -> run(ctx, args, stdin, stdout, stderr) -> [Run] -> command -> error -> [CodeOf] -> os.Exit
//
// Everything here is used by one goroutine of one process.
package cli
