package apply

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// phase is how far a home is.
type phase string

const (
	phaseNone      phase = ""           // no data directory yet
	phaseRestoring phase = "restoring"  // the data directory is being made
	phaseFollowing phase = "following"  // it was made, and follows
	phasePromoting phase = "promoting"  // a promotion was ordered, or is about to be
	phaseActive    phase = "active"     // it was promoted, and the fork was verified
	phaseStoodDown phase = "stood-down" // it was stopped for good: what it holds is not the stream's
	phaseLeft      phase = "left"       // the stream it was the source of is written elsewhere: it is to follow again
)

// saved is home/apply.json: what was decided, written before it is done.
//
// Invariants:
//  1. Phase other than none and left: Generation and Lineage are set, and the base's
//     facts if it was made from one
//  2. Epoch and At are set from promoting on
type saved struct {
	Version    int                 `json:"version"` // savedVersion
	Stream     tidegate.StreamID   `json:"stream"`
	Phase      phase               `json:"phase"`
	Generation tidegate.Generation `json:"generation"` // of the base that the data directory was made from
	Base       string              `json:"base"`       // its name
	Lineage    tidegate.Lineage    `json:"lineage"`    // newest one that the server was given anything of, or has made
	Release    string              `json:"release"`    // server_version of the primary, or its major number
	Epoch      tidegate.Epoch      `json:"epoch"`      // promoting: under which; active: newest that it was active under
	At         tidegate.Position   `json:"at"`         // H of the promotion
	Why        string              `json:"why,omitempty"`
	// Drained says that it was stopped for a switchover: it is started again only
	// when the gate says that it goes on here.
	Drained bool `json:"drained,omitempty"`
	// Tail is what it held that the stream went on without, the last time that it left.
	Tail *Tail `json:"tail,omitempty"`
}

// Tail is log that only this server had when it left the stream.
type Tail struct {
	First   tidegate.Position `json:"first"`
	Next    tidegate.Position `json:"next"`    // exclusive
	Commits uint64            `json:"commits"` // of transactions
	Oldest  time.Time         `json:"oldest,omitzero"`
	Newest  time.Time         `json:"newest,omitzero"`
	Path    string            `json:"path"` // of the quarantine with the log and its summary
}

// offered reports whether the data is to be compared with the log, and fed from it:
// not while there is none, and not while it is what somebody else wrote.
func (s saved) offered() bool {
	return s.Phase != phaseNone && s.Phase != phaseRestoring && s.Phase != phaseLeft
}

const savedVersion = 1

// savedBytesMax bounds what is read: lineages are bounded, too.
const savedBytesMax = 64 << 10

var phases = map[phase]bool{
	phaseNone: true, phaseRestoring: true, phaseFollowing: true, phasePromoting: true, phaseActive: true, phaseStoodDown: true, phaseLeft: true,
}

func (s saved) validate() error {
	switch {
	case s.Version != savedVersion:
		return fmt.Errorf("version %d: %w", s.Version, tidegate.ErrUnsupported)
	case !phases[s.Phase]:
		return fmt.Errorf("phase %q: %w", s.Phase, tidegate.ErrUnsupported)
	case s.Phase == phaseNone, s.Phase == phaseLeft && s.Lineage == "":
		return nil
	case s.Generation == 0:
		return fmt.Errorf("phase %s without a generation", s.Phase)
	}
	if _, err := wal.ParseLineage(s.Lineage); err != nil {
		return err
	}
	if (s.Phase == phasePromoting || s.Phase == phaseActive) && (s.Epoch == 0 || s.At == 0) {
		return fmt.Errorf("phase %s without an epoch and a place", s.Phase)
	}
	return nil
}

// readSaved reads what was decided; phaseNone when there is nothing yet. A file
// that cannot be read is an error: guessing it would start a server twice.
func readSaved(fsys vfs.FS, path string) (s saved, err error) {
	f, err := fsys.Open(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, tidegate.ErrNotFound) {
		return saved{Version: savedVersion}, nil
	}
	if err != nil {
		return saved{}, fmt.Errorf("read state of the warm server: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b, err := io.ReadAll(io.LimitReader(f, savedBytesMax))
	if err != nil {
		return saved{}, fmt.Errorf("read state of the warm server %s: %w", path, err)
	}
	if s, err = parseSaved(b); err != nil {
		return saved{}, &tidegate.Error{
			Op: "read state of the warm server", Subject: path, Class: tidegate.Corrupt, Err: err,
			Hint: "nothing is started from it; move the warm server's whole home aside, and it is restored anew from the base",
		}
	}
	return s, nil
}

func parseSaved(b []byte) (s saved, err error) {
	if err := json.Unmarshal(b, &s); err != nil {
		return s, err
	}
	return s, s.validate()
}

func writeSaved(fsys vfs.FS, path string, s saved) error {
	s.Version = savedVersion
	if err := s.validate(); err != nil {
		return fmt.Errorf("write state of the warm server: %w", err)
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write state of the warm server: %w", err)
	}
	return durable.WriteFile(fsys, path, append(b, '\n'))
}
