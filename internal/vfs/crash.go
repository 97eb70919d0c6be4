package vfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// Seeds of [Mem.CrashClone] with a fixed meaning; all others draw lots.
const (
	CrashLoseAll = 0 // nothing unsynced survives
	CrashKeepAll = 1 // everything survives, as after kill -9
)

// CrashClone returns the file system as a power cut at this moment leaves it.
// What was synced is there. Of the rest, by seed: each unsynced sector holds
// its new or its old bytes (zeros where the disk had none), the size of an
// unsynced file is anything between, and each unsynced name change has happened
// or not, a rename always as a whole. Locks are free. m is not changed, and
// may be in use; its open files stay with it.
func (m *Mem) CrashClone(seed int64) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &crash{seed: seed, rng: rand.New(rand.NewPCG(uint64(seed), 0x7469646567617465)), nodes: map[*memNode]*memNode{}}
	// Some crashes lose nearly everything, some nearly nothing: a fair coin per
	// sector alone would hardly ever leave a whole record beyond a torn one.
	c.keep = []float64{0.05, 0.5, 0.95}[c.rng.IntN(3)]

	names := map[*memNode]map[string]*memNode{}
	survived := func(d *memNode) map[string]*memNode {
		if names[d] == nil {
			names[d] = maps.Clone(d.durable)
		}
		return names[d]
	}
	for _, change := range m.pending {
		if c.survives() {
			change.apply(survived)
		}
	}
	clone := NewMem()
	clone.capacity, clone.ticks = m.capacity, m.ticks
	clone.root = c.node(m.root, survived)
	clone.used = usedBytes(clone.root)
	return clone
}

type crash struct {
	seed  int64
	rng   *rand.Rand
	keep  float64
	nodes map[*memNode]*memNode
}

func (c *crash) survives() bool {
	switch c.seed {
	case CrashLoseAll:
		return false
	case CrashKeepAll:
		return true
	}
	return c.rng.Float64() < c.keep
}

func (c *crash) node(n *memNode, names func(*memNode) map[string]*memNode) *memNode {
	if done, ok := c.nodes[n]; ok {
		return done
	}
	if !n.isDir() {
		f := c.file(n)
		c.nodes[n] = f
		return f
	}
	d := newMemDir()
	d.modTime = n.modTime
	c.nodes[n] = d
	left := names(n)
	for _, name := range slices.Sorted(maps.Keys(left)) { // in order: the lots must not depend on the map
		child := c.node(left[name], names)
		d.names[name], d.durable[name] = child, child
	}
	return d
}

func (c *crash) file(n *memNode) *memNode {
	size := c.size(n.durableSize, int64(len(n.data)))
	data := make([]byte, size)
	for start := int64(0); start < size; start += SectorSize {
		c.sector(n, start, data[start:min(start+SectorSize, size)])
	}
	f := newMemFile()
	f.data, f.durableSize, f.modTime = data, size, n.modTime
	return f
}

func (c *crash) sector(n *memNode, start int64, to []byte) {
	current := func() {
		if start < int64(len(n.data)) {
			copy(to, n.data[start:])
		}
	}
	before, changed := n.before[start/SectorSize]
	unsynced := changed || start+int64(len(to)) > n.durableSize
	switch {
	case !unsynced || c.survives():
		current()
	case changed:
		copy(to, before)
	case start < n.durableSize: // the sector the durable end lies in, appended to since
		copy(to[:n.durableSize-start], n.data[start:])
	}
}

// size picks the length the disk knows: the durable one, the newest one, or a
// sector boundary between.
func (c *crash) size(durable, newest int64) int64 {
	if durable == newest {
		return durable
	}
	if c.seed == CrashLoseAll || c.seed == CrashKeepAll || newest < durable {
		if c.survives() {
			return newest
		}
		return durable
	}
	switch c.rng.IntN(4) {
	case 0:
		return durable
	case 1:
		between := durable + c.rng.Int64N(newest-durable+1)
		return max(durable, between/SectorSize*SectorSize)
	}
	return newest
}

func usedBytes(n *memNode) uint64 {
	used := uint64(len(n.data))
	for _, child := range n.names {
		used += usedBytes(child)
	}
	return used
}
