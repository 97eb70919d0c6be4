package walsender

import "github.com/tidegate/tidegate/stores/postgres/wal"

// slotsMax bounds the slots of one server.
const slotsMax = 64

// slot is a name that a receiver asked for and what was last flushed under it.
// It holds nothing back and is gone when the server is: it exists because
// receivers insist on asking.
type slot struct {
	session  uint64 // the one that ends with it, for a temporary slot; else 0
	flush    wal.LSN
	timeline wal.Timeline
}

type slots map[string]slot

// create outcomes: nil; a refusal when the name is taken or there are too many.
func (m slots) create(name string, session uint64) *refusal {
	switch _, taken := m[name]; {
	case taken:
		return refuse("42710", "replication slot %q already exists", name)
	case len(m) >= slotsMax:
		return refuse("53400", "all replication slots are in use")
	}
	m[name] = slot{session: session}
	return nil
}

func (m slots) drop(name string) *refusal {
	if _, known := m[name]; !known {
		return refuse("42704", "replication slot %q does not exist", name)
	}
	delete(m, name)
	return nil
}

// flushed notes a status of a receiver that streams under a slot, which need
// not be one that was made here.
func (m slots) flushed(name string, tli wal.Timeline, at wal.LSN) {
	if s, known := m[name]; known && at != 0 {
		s.flush, s.timeline = at, tli
		m[name] = s
	}
}

// release drops the temporary slots of a session that ends.
func (m slots) release(session uint64) {
	for name, s := range m {
		if s.session == session {
			delete(m, name)
		}
	}
}
