// Package route sends the clients of a service to where its writer is: drivers
// that a gate calls when it switches a route, and the TCP proxy of
// `tidegate route`, which stands outside the primary site and follows the gate.
//
// It promises that a route never goes back: a lower epoch than the one applied
// is refused, also after a restart, and when the epoch rises every connection of
// a lower one is cut before the change is reported. It does not look inside
// the connections, and it does not decide where clients belong.
//
// # Words
//
//   - target: where one service's clients belong, with the epoch that says so
//   - driver: something that puts a target into effect
//   - cut:    reset both ends of a connection
//
// # Picture
//
//	gating --Switch--> [Exec], [File]
//	gating --Watch---> [Proxy] <--clients
//	                      |------> the active service
//
// Drivers and the Proxy may be used concurrently. The proxy's applied targets
// are durable before a client can see them.
package route
