package encrypt

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/tidegate/tidegate"
)

// KeyBytes is the length of every key: AES-256.
const KeyBytes = 32

// IDMax is the longest id of a key, in bytes.
const IDMax = 32

// keyFileMax bounds what is read of a key file.
const keyFileMax = 1 << 20

// Keeper has the keys of an archive, by their ids. Its methods may be called
// concurrently; their errors are classified.
type Keeper interface {
	// Newest is the key that new objects get, and its id.
	Newest(ctx context.Context) (id string, key [KeyBytes]byte, err error)
	// Key is the key with that id, which is a valid one.
	Key(ctx context.Context, id string) (key [KeyBytes]byte, err error)
}

// Keys are what a key file has; they implement [Keeper].
type Keys struct {
	newest string
	byID   map[string][KeyBytes]byte
}

// Newest implements [Keeper].
func (k *Keys) Newest(context.Context) (id string, key [KeyBytes]byte, err error) {
	return k.newest, k.byID[k.newest], nil
}

// Key implements [Keeper].
func (k *Keys) Key(_ context.Context, id string) (key [KeyBytes]byte, err error) {
	key, known := k.byID[id]
	if !known {
		return key, &tidegate.Error{
			Op: "find key", Subject: id, Class: tidegate.Misuse, Err: errors.New("the key file does not have it"),
			Hint: fmt.Sprintf("add the key %s to the key file; keys stay in it as long as there are objects under them", id),
		}
	}
	return key, nil
}

// ReadKeys reads a key file: a line for each key, its id and its 32 bytes in hex.
// Lines that are empty or begin with '#' mean nothing. The last key is the one that
// new objects get.
func ReadKeys(path string) (*Keys, error) {
	wrong := func(err error, hint string) error {
		return &tidegate.Error{Op: "read keys of the archive", Subject: path, Class: tidegate.Misuse, Err: err, Hint: hint}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, wrong(err, "without its keys an encrypted archive cannot be read: get the file from where it is kept twice")
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return nil, wrong(err, "")
	}
	if info.Mode().Perm()&0o007 != 0 {
		return nil, wrong(fmt.Errorf("everybody on this machine may read or write it (mode %04o)", info.Mode().Perm()), "chmod 0640 it, or less, and think about a new key")
	}
	text, err := io.ReadAll(io.LimitReader(f, keyFileMax+1))
	if err == nil && len(text) > keyFileMax {
		err = errors.New("too long for a key file")
	}
	if err != nil {
		return nil, wrong(err, "")
	}
	keys, err := ParseKeys(string(text))
	if err != nil {
		return nil, wrong(err, "each line is an id and 64 hex digits, such as: echo \"key-1 $(openssl rand -hex 32)\" >> "+path)
	}
	return keys, nil
}

// ParseKeys reads the text of a key file. Errors name lines and never a key.
func ParseKeys(text string) (*Keys, error) {
	keys := &Keys{byID: map[string][KeyBytes]byte{}}
	number := 0
	for line := range strings.Lines(text) {
		number++
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0][0] == '#' {
			continue
		}
		if len(fields) != 2 {
			return nil, fmt.Errorf("line %d: want an id and a key", number)
		}
		id := fields[0]
		if err := ValidID(id); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if _, twice := keys.byID[id]; twice {
			return nil, fmt.Errorf("line %d: the id %s is there twice", number, id)
		}
		key, err := hex.DecodeString(fields[1])
		if err != nil || len(key) != KeyBytes {
			return nil, fmt.Errorf("line %d: want %d hex digits behind the id %s", number, KeyBytes*2, id)
		}
		keys.byID[id] = [KeyBytes]byte(key)
		keys.newest = id
	}
	if keys.newest == "" {
		return nil, errors.New("there is no key in it")
	}
	return keys, nil
}

// ValidID reports what is wrong with the id of a key.
func ValidID(id string) error {
	if id == "" || len(id) > IDMax {
		return fmt.Errorf("an id has 1 to %d bytes", IDMax)
	}
	for i := range len(id) {
		if c := id[i]; c != '-' && c != '_' && c != '.' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return errors.New("an id is of letters, digits, '-', '_' and '.'")
		}
	}
	return nil
}
