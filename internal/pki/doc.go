// Package pki knows who is at the other end of a connection: it loads a node's
// certificate, makes the TLS configurations of both ends, and reads the peer's
// identity from its URI SAN tidegate://<cluster>/<site>/<role>/<name>.
//
// Promise: a handshake made with these configurations is TLS 1.3, both sides
// have shown a certificate that chains to the cluster's own authority, and both
// name the same cluster. Host names are not compared: the authority vouches for
// the node's name, not for the address that it happens to have today.
// Not promised: what a role may do; each server decides that from [PeerIdentity].
//
// # Words
//
//   - credentials: one certificate, its key and the authority that peers must chain to
//   - authority:   a development certificate authority on disk (`tidegate dev pki`, tests)
//
// # Picture
//
//	cert, key, CA files -> [Load] -> [Credentials.ServerTLS] -> 7411, 7412, 7414
//	        ^                     \-> [Credentials.ClientTLS] -> dialers
//	        +-- [OpenAuthority] . [Authority.Issue]
//
// Credentials may be used concurrently; a changed file takes effect at the next
// handshake, and an unreadable new file leaves the old certificate in use.
// An Authority is not safe for concurrent use. Files are written through
// internal/durable, readable by their owner only.
package pki
