// Package server answers the ledger's HTTP interface (package api).
//
// Promise: nothing that depends on a command leaves this process before the gate
// released the command's position: neither the receipt, nor a balance, nor the
// outcome of an earlier request. A command sent to a node that does not lead is
// passed on to the one that does, so that any node may be asked. The client's
// deadline is kept.
// Not held back, because they are for operators and replicas and not for the
// ledger's customers: /digest, /status and /journal.
//
// # Picture
//
//	client -> any node -> leader: [Backend.Submit] -> [book.Book.Release] -> receipt
//
// The handler may be used concurrently; at most [Config.InflightMax] commands
// are in it at a time.
package server
