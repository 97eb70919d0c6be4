package evidence

import "crypto/ed25519"

// KeyFromSeed is the same key for the same seed: signatures in golden files are its.
func KeyFromSeed(seed byte) *Key {
	k, err := keyOf(ed25519.NewKeyFromSeed(append(make([]byte, ed25519.SeedSize-1), seed)))
	if err != nil {
		panic(err)
	}
	return k
}
