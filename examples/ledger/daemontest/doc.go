// Package daemontest is a scripted stand-in for the Tidegate daemons, for tests
// of the ledger that have no agent and no standby node beside them.
//
// As an agent it holds an epoch for whoever is activated and says that
// everything is durable elsewhere, unless the gate is shut. As a standby node it
// says what it is told to say. All methods may be called concurrently.
package daemontest
