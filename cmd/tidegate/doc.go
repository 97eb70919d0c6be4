// Command tidegate is the gate, the standby node, the route and the operator's
// tool in one binary. `tidegate --help` lists the commands; what exit codes
// promise is in docs/operating/exit-codes.md.
//
// Each command is one file: it reads its arguments, wires parts of the floors
// below, and prints. Decisions are made below.
package main
