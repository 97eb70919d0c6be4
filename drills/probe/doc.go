// Package probe asks a service that a drill has recovered, and says what came of it: by
// HTTP, by commands, in SQL.
//
// Promise: only addresses that a [Place] has given are dialled, whatever a connection
// string, a redirect or the environment says; every question ends in time; an answer that
// is not the wanted one and no answer are told apart; a password of a connection string is
// in no answer and no error. Not promised: what a command does.
//
// # Words
//
//   - ask:     one question, the answer that is wanted, and how long that may take
//   - canary:  a write that must be accepted, and what reads it back
//   - record:  the newest of a writer outside of the drill, which writes at the live service
//   - journey: several steps in order, each an ask, with values handed on
//   - place:   where the asked service lives, and the values of the names in braces
//
// # Picture
//
//	drill's file --> [Ask], [Canary] -- [Rules] --> [Asker] -- [Place] --> the service
//	                                                   '--> evidence.Check
//
// An Asker may be used by several goroutines. Nothing is written to disk.
package probe
