package api

import (
	"crypto/tls"
	"net"
	"net/http"
	"time"
)

// Limits of a client's connection. A peer that vanished without a word is
// noticed by pings, because a Watch stream may be silent for long.
const (
	dialTimeout  = 3 * time.Second
	pingAfter    = 5 * time.Second
	pingTimeout  = 3 * time.Second
	idleConnsMax = 4
)

// NewHTTPClient returns a client for the generated services over mutual TLS and
// HTTP/2. It has no overall timeout, because streams are long: give each call a
// context with one.
func NewHTTPClient(cfg *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSClientConfig:     cfg,
		TLSHandshakeTimeout: dialTimeout,
		ForceAttemptHTTP2:   true,
		MaxIdleConns:        idleConnsMax,
		IdleConnTimeout:     time.Minute,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}}
}

// CompressMin is the size in bytes from which a server compresses its answers.
// Setting up a compressor costs more than a small message does on any link.
const CompressMin = 64 << 10

// WatchBeat is how often a gate sends a message on every Watch stream at least,
// changed or not. A client that hears nothing for three beats goes to another gate.
const WatchBeat = 2 * time.Second
