// Package agentd makes the agent's process out of its file: what
// `tidegate-agent run` starts alone and `tidegate dev` starts beside the other
// roles. It decides nothing; it is the one place where an agent is wired.
//
// # Picture
//
//	agent.Config -> [Parts] -> daemon.Serve
//
// [Parts] reads the certificate and does no other I/O. It writes no files.
package agentd
