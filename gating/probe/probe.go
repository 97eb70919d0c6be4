package probe

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/config"
)

// Level is how much an attempt proves.
type Level string

// The levels.
const (
	Write Level = "write" // a write was confirmed: clients are served
	Read  Level = "read"  // the service that may take writes answers
)

// UnmarshalText accepts exactly the levels.
func (l *Level) UnmarshalText(text []byte) error {
	switch v := Level(text); v {
	case Write, Read:
		*l = v
		return nil
	}
	return fmt.Errorf("want write or read (got %q)", text)
}

// Request is one attempt.
type Request struct {
	Level  Level
	Number uint64         // grows with every attempt of one process
	Epoch  tidegate.Epoch // of the service's route; 0 when there is none yet
	// At is the endpoint to go to, host:port, with everything else as it is through
	// the normal route; "" is the normal route.
	At string
	// Heard, if not nil, is called at most once, on the goroutine of Try, as soon as
	// the service has answered anything, also a refusal. It does not block.
	Heard func()
}

// heard calls Heard.
func (r Request) heard() {
	if r.Heard != nil {
		r.Heard()
	}
}

// Client is the synthetic client of one service. Its methods may be called
// concurrently.
type Client interface {
	// Try makes one attempt, as a new client, and returns nil when it proved what
	// its level says. It returns soon after ctx ends, which must have a deadline,
	// and leaves nothing behind that a client which gave up would not. An error is a
	// *[tidegate.Error]: transient unless trying again cannot help.
	Try(ctx context.Context, r Request) error
}

// Kind makes a client of its section of a gate's file, without I/O; mistakes are
// those of [config.ReadSection]. from names the gate to the service, so that two
// gates' clients do not meet; it is "" where a file is only checked.
type Kind func(from string, settings config.Section) (Client, error)

// Kinds are the kinds that a process knows, by name.
type Kinds map[string]Kind

// Names lists the kinds, for messages.
func (k Kinds) Names() string { return strings.Join(slices.Sorted(maps.Keys(k)), ", ") }
