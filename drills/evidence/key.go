package evidence

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

// Kinds of PEM blocks, as openssl writes and reads them.
const (
	privateBlock = "PRIVATE KEY" // PKCS#8
	publicBlock  = "PUBLIC KEY"  // SubjectPublicKeyInfo
)

// keyBytesMax bounds a key's file.
const keyBytesMax = 16 << 10

// Key signs reports. It never changes.
type Key struct {
	private ed25519.PrivateKey
	public  PublicKey
}

// PublicKey is what a report's signature is checked with.
type PublicKey struct {
	key ed25519.PublicKey
	der []byte // SubjectPublicKeyInfo
}

// KeyID names a public key: the SHA-256 of its DER form, as
// `openssl pkey -pubin -outform DER | sha256sum` prints it.
type KeyID string

// Public returns the key's public half.
func (k *Key) Public() PublicKey { return k.public }

// ID returns the key's name.
func (p PublicKey) ID() KeyID { return KeyID(HashOf(p.der).String()) }

// PEM returns the key as openssl reads it.
func (p PublicKey) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: p.der})
}

// NewKey makes a key and writes it to the new file path, which its owner alone may
// read. It is durable when NewKey returns; a file that is there already is refused,
// never written over: reports are signed with it.
func NewKey(path string) (*Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, keyError("make", path, err)
	}
	k, err := keyOf(private)
	if err != nil {
		return nil, keyError("make", path, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, keyError("make", path, err)
	}
	if err := writeKey(path, pem.EncodeToMemory(&pem.Block{Type: privateBlock, Bytes: der})); err != nil {
		return nil, keyError("make", path, err)
	}
	return k, nil
}

// writeKey does not go through internal/vfs, whose files the owner's group may read.
func writeKey(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return errKeyThere
	}
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path)) // nobody has been told of it
	}
	return vfs.OS().SyncDir(filepath.Dir(path))
}

// LoadKey reads a key that [NewKey] has written, or `openssl genpkey -algorithm
// ED25519`. A file that anybody but its owner may read or write is refused.
func LoadKey(path string) (*Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, keyError("read", path, err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	info, err := f.Stat()
	if err != nil {
		return nil, keyError("read", path, err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, &tidegate.Error{
			Op: "read drill key", Subject: path, Class: tidegate.Misuse,
			Err:  fmt.Errorf("others than its owner may read or write it (mode %04o)", mode),
			Hint: "chmod 600 " + path + "; where others may have read it, make a new key and trust that one",
		}
	}
	der, err := readBlock(f, privateBlock)
	if err != nil {
		return nil, keyError("read", path, err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, keyError("read", path, err)
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, keyError("read", path, fmt.Errorf("it is a %T, want Ed25519", parsed))
	}
	k, err := keyOf(private)
	if err != nil {
		return nil, keyError("read", path, err)
	}
	return k, nil
}

// LoadPublicKey reads a public key, as [PublicKey.PEM] writes it.
func LoadPublicKey(path string) (PublicKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return PublicKey{}, keyError("read", path, err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	der, err := readBlock(f, publicBlock)
	if err != nil {
		return PublicKey{}, keyError("read", path, err)
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return PublicKey{}, keyError("read", path, err)
	}
	key, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return PublicKey{}, keyError("read", path, fmt.Errorf("it is a %T, want Ed25519", parsed))
	}
	return publicOf(key)
}

func keyOf(private ed25519.PrivateKey) (*Key, error) {
	public, err := publicOf(private.Public().(ed25519.PublicKey))
	return &Key{private, public}, err
}

func publicOf(key ed25519.PublicKey) (PublicKey, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	return PublicKey{key, der}, err
}

// readBlock returns what the one PEM block of r holds.
func readBlock(r io.Reader, kind string) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, keyBytesMax))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("it has no PEM block %q", kind)
	}
	return block.Bytes, nil
}

// errKeyThere: reports may be signed with it.
var errKeyThere = errors.New("the file is there already")

func keyError(verb, path string, err error) error {
	out := &tidegate.Error{Op: verb + " drill key", Subject: path, Class: tidegate.Misuse, Err: err}
	switch {
	case errors.Is(err, errKeyThere):
		out.Class, out.Hint = tidegate.Refused, "keep the key that is there, or name another file"
	case errors.Is(err, os.ErrNotExist):
		out.Hint = "`tidegate drill key new` makes one"
	}
	return out
}
