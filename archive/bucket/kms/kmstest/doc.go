// Package kmstest speaks the part of AWS KMS's JSON protocol that package kms uses, for
// tests: no server of it can be had to run. It is not AWS, and proves nothing of AWS; it
// answers in the shapes that Amazon's library has recorded in its own tests, takes only
// requests of those shapes, and really wraps: with AES-GCM, bound to the context.
package kmstest
