// Package vfstest is the conformance suite of vfs.FS: what every file system
// must do that the product is to run on.
package vfstest
