// Command tidegate-agent runs beside every service that may be active. It is a
// small binary of its own: no etcd and no gRPC are linked into it.
//
//	tidegate-agent run           capture, seal and ship until stopped
//	tidegate-agent check-config  read the configuration and report every mistake
//	tidegate-agent status        ask the agent on this machine
//
// Exit codes are those of docs/operating/exit-codes.md.
package main
