// Package awschain is what Amazon's library is told before it speaks with any service:
// where credentials come from, which is the library's own chain only, and that it
// tries nothing again and logs nothing by itself.
package awschain
