// Package archivetest makes archives for tests: sealed batches of whatever a test
// has, put into a bucket as segments, and copies of base stores. A [Maker] belongs
// to one test.
package archivetest
