// Package tidegate is the vocabulary of the product: the nouns that cross
// folder borders, each with one text form, one strict parser and one meaning.
//
// It imports only the standard library and is imported by everyone. It holds no
// behaviour beyond comparing, parsing and printing; a decision that needs a
// clock, a file or a socket belongs to a floor above.
//
// # Words
//
//   - position: place in the source's own log, compared only within one generation
//   - seq:      number of a sealed batch in its stream, contiguous from 1
//   - epoch:    fencing token of a stream; every change of writer is a new epoch
//   - D:        newest seq durable on W standby nodes that adopted the epoch
//   - A:        newest position whose outputs were released
//   - exposure: released but not durable; what a disaster would lose now
//
// docs/GLOSSARY.md has the whole table. All values are immutable; everything
// here may be used concurrently.
package tidegate
