// Package kms has the keys of an archive that a key service, AWS KMS, opens: an envelope
// in three layers. A KMS key never leaves the service. A key of the archive is made by
// it, and lies in the bucket as the service has encrypted it, in a document of its own;
// the service decrypts it when it is first wanted. The data key of each object is
// encrypted under that, as package encrypt does under keys of a file. So KMS is asked
// once for each key of the archive in the life of a process, and not for each object.
//
// Promise: an object is put only under a key whose document is in the bucket, was read
// back from there, and was decrypted by the service again. A document is written once
// and never over: another key of the archive is another document, and objects of the
// older ones stay readable. The service is given the archive's id and the key's as
// encryption context, so a wrapped key opens nowhere else; one that does not open is
// corrupt. Not promised: to read anything once the KMS key is deleted, or the documents
// are gone.
//
// # Words
//
//   - KMS key:      what the service keeps; named by its ARN
//   - archive key:  one of the archive's own, kms-0001 and so on; the last is that of new objects
//   - key document: the object keys/kms-0001.json, with the wrapped key
//   - wrapped:      encrypted by the service
//
// # Picture
//
//	encrypt.Bucket -> [Ring] --GenerateDataKey, Decrypt--> KMS
//	                    \-----keys/kms-0001.json--------> bucket, not encrypted by us
//
// All methods of a Ring may be called concurrently. The document is in
// docs/formats/archive-object.md.
package kms
