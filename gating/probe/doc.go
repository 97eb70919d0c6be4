// Package probe is what a gate's synthetic clients are made of: one kind for each
// protocol that services speak, behind one small interface. The kind http is here;
// others belong to their stores, and a composition root puts them together.
//
// Promise: a [Client] that returns nil at level write has seen its write confirmed
// by the service that it reached, as an ordinary client would. Every attempt is a
// new client, so that a switched route is noticed. [Request.Heard] is called only
// for an answer of the service itself, never for a proxy before it.
// Not promised: when to try, what silence means, and what is done with either;
// that is package gating.
//
// # Words
//
//   - kind:  a protocol, by the name that a gate's file has for it
//   - level: write proves that clients are served; read proves only that the service
//     which may take writes is there, and needs fewer rights
//   - route: where clients go; an attempt goes there unless it names an endpoint
//
// # Picture
//
//	gate's file -- kind, settings --> [Kind] --> [Client]
//	package gating: every so often -- [Request] --> Try --> heard, good or bad
//
// A Client's methods may be called concurrently. Nothing is written to disk.
package probe
