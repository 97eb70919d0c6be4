// Package program lets the test of operators drive a program of its own: any language,
// lines of JSON on its standard input and output.
//
// # Protocol
//
// The program begins empty. For each input it reads one line, and answers with one line
// before it reads the next; it flushes each. At the end of its input it ends.
//
//	in   {"position":"0000000000000007","input":<any JSON value>}
//	out  {"outputs":[<any JSON value>, ...],"state":<any JSON value>}
//
// State is what the program remembers, or a digest of it; it may be left out, always then.
// {"error":"..."} ends the test. To empty the program it is started anew. The surroundings
// are in its environment: TZ, GOMAXPROCS, and FAKETIME as libfaketime reads it, where that
// is preloaded or the program looks at it by itself; [Surroundings] says whether it does
// anything. A line that is no answer to an input, a banner or a second one, is an error.
//
// # Picture
//
//	recovery.TestOperator -- [Operator] -- stdin, stdout --> program
//
// An Operator is not safe for concurrent use. Every process that it starts has ended when
// Close returns. For operators: docs/operating/recovery-types.md.
package program
