// Package retry is the one retry policy: capped exponential back-off with full
// jitter, ended by a context, driven by the error's class.
//
// It never decides by itself what is worth retrying: it asks
// [tidegate.ClassOf], and only a transient error is tried again.
//
// A [Policy] is a value and may be shared; a [Backoff] belongs to one goroutine.
package retry
