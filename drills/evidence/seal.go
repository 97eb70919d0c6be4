package evidence

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/tidegate/tidegate"
)

// PayloadType says in an envelope what its payload is.
const PayloadType = "application/vnd.tidegate.drill+json"

// EnvelopeBytesMax bounds an envelope: a report in base64, and some signatures.
const EnvelopeBytesMax = ReportBytesMax/3*4 + 64<<10

// File is an envelope as it lies somewhere.
type File struct {
	Name string // path or object, for people
	Data []byte
}

// Sealed is a report in its envelope. Whose signatures they are, and what the report
// says, is what the envelope claims until [Verify] has found nothing.
type Sealed struct {
	File
	Payload []byte // the report's bytes, as signed
	Hash    Hash   // of Payload: what the next report follows
	Report  Report
	KeyIDs  []KeyID // of its signatures

	envelope dsse.Envelope
}

// Seal signs a report that knows its place in the chain. The name of the file is left
// empty.
func Seal(ctx context.Context, key *Key, r Report) (Sealed, error) {
	payload, err := r.Encode()
	if err != nil {
		return Sealed{}, err
	}
	signer, err := dsse.NewEnvelopeSigner(signing{key})
	if err != nil {
		return Sealed{}, err
	}
	envelope, err := signer.SignPayload(ctx, PayloadType, payload)
	if err != nil {
		return Sealed{}, err
	}
	data, err := json.Marshal(envelope)
	if err != nil {
		return Sealed{}, err
	}
	return Open(File{Data: append(data, '\n')})
}

// Open takes an envelope apart; it believes nothing. Errors are those of [Parse].
func Open(f File) (Sealed, error) {
	s, err := unwrap(f)
	if err == nil {
		s.Report, err = Parse(s.Payload)
	}
	if err != nil {
		return Sealed{}, &tidegate.Error{Op: "open evidence", Subject: f.Name, Class: tidegate.ClassOf(err), Hint: tidegate.HintOf(err), Err: err}
	}
	return s, nil
}

// unwrap is Open without the report.
func unwrap(f File) (Sealed, error) {
	s := Sealed{File: f}
	corrupt := func(err error) (Sealed, error) {
		return s, &tidegate.Error{Op: "read envelope", Class: tidegate.Corrupt, Err: err}
	}
	if len(f.Data) > EnvelopeBytesMax {
		return corrupt(fmt.Errorf("it has %d bytes, more than %d", len(f.Data), EnvelopeBytesMax))
	}
	err := json.Unmarshal(f.Data, &s.envelope)
	if err != nil {
		return corrupt(err)
	}
	if s.envelope.PayloadType != PayloadType {
		return corrupt(fmt.Errorf("payload of type %q: want %q", s.envelope.PayloadType, PayloadType))
	}
	if s.Payload, err = s.envelope.DecodeB64Payload(); err != nil {
		return corrupt(err)
	}
	s.Hash = HashOf(s.Payload)
	for _, sig := range s.envelope.Signatures {
		s.KeyIDs = append(s.KeyIDs, KeyID(sig.KeyID))
	}
	return s, nil
}

// signing is a key as package dsse wants it.
type signing struct{ key *Key }

func (s signing) Sign(_ context.Context, data []byte) ([]byte, error) {
	return ed25519.Sign(s.key.private, data), nil
}

func (s signing) KeyID() (string, error) { return string(s.key.public.ID()), nil }

// checking is the same of a public key.
type checking struct{ PublicKey }

func (c checking) Verify(_ context.Context, data, sig []byte) error {
	if !ed25519.Verify(c.key, data, sig) {
		return errors.New("the signature is not of these bytes")
	}
	return nil
}

func (c checking) KeyID() (string, error) { return string(c.ID()), nil }

func (c checking) Public() crypto.PublicKey { return c.key }
