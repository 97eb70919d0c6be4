// Package figure is what the measurements have in common: medians and tails, the
// machine that they were taken on, and files that are not in the page cache.
//
// Functions may be called concurrently.
package figure
