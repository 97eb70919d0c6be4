package standby

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/quarantine"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/standby/deltalog"
)

// heldFileName is which bases are counted on, in the directory of a stream's bases.
const (
	heldFileName = "held.json"
	heldVersion  = 1
)

// heldBase is a base that this node has counted on. What was acknowledged may rest on
// it: it is looked for at every start.
type heldBase struct {
	Generation tidegate.Generation `json:"generation"`
	Opened     tidegate.Epoch      `json:"opened"`
	Name       string              `json:"name"` // of the manifest
}

type heldFile struct {
	Version int        `json:"version"` // heldVersion
	Held    []heldBase `json:"held"`
}

// lostBase is a base that was counted on, and that a start has found damaged or gone.
type lostBase struct {
	heldBase

	why   string // what is known of the damage
	aside string // where what was left of it is now; empty: nothing was left
}

// readHeld reads what was counted on, and which of it is not there any more. What was
// listed and not yet written down is whole all the same.
func (b *bases) readHeld() error {
	path := filepath.Join(b.dir, heldFileName)
	f := heldFile{Version: heldVersion}
	raw, err := readFile(b.s.n.deps.FS, path)
	switch {
	case errors.Is(err, tidegate.ErrNotFound):
	case err != nil:
		return fmt.Errorf("read %s: %w", path, err)
	default:
		if err := json.Unmarshal(raw, &f); err != nil {
			return &tidegate.CorruptError{Path: path, Offset: -1, What: err.Error()}
		}
	}
	if f.Version != heldVersion {
		return fmt.Errorf("read %s: version %d: %w", path, f.Version, tidegate.ErrUnsupported)
	}
	b.held = b.store.Bases()
	for _, h := range f.Held {
		if !slices.ContainsFunc(b.held, func(l snapshot.Listed) bool { return l.Name.String() == h.Name }) {
			b.lost = append(b.lost, lostBase{heldBase: h, why: b.faultOf(h)})
		}
	}
	if len(b.lost) > 0 || len(f.Held) == len(b.held) {
		return nil
	}
	return b.writeHeld(b.held)
}

// faultOf says why a base is not listed.
func (b *bases) faultOf(h heldBase) string {
	for _, fault := range b.store.Faults() {
		c, is := errors.AsType[*tidegate.CorruptError](fault)
		if is && c.Path == b.manifest(h) {
			return c.What
		}
	}
	return "it is not there any more, or cannot be read"
}

func (b *bases) manifest(h heldBase) string {
	return snapshot.ManifestPath(b.dir, h.Generation, h.Name)
}

// settleLost goes on without the bases that were lost when what is left carries the
// log: what was counted then counts all the same. What is left of them is set aside. Its
// error is that the log rests on one of them. The stream is not open to anybody yet.
func (b *bases) settleLost(log *deltalog.Log) error {
	if b == nil || len(b.lost) == 0 {
		return nil
	}
	end := coreEnd(log)
	carried := b.s.counted(end)
	for _, h := range b.lost {
		needed, err := b.rested(h.heldBase, log, carried)
		if err != nil {
			return err
		}
		if carried.Seq < end.Seq && needed {
			return &tidegate.CorruptError{Path: b.dir, Offset: -1, What: fmt.Sprintf("base %.12s of generation %d, which was counted on, is damaged or gone: %s", h.Name, h.Generation, h.why)}
		}
	}
	for i := range b.lost {
		if err := b.setAside(&b.lost[i]); err != nil {
			return fmt.Errorf("set aside base %.12s: %w", b.lost[i].Name, err)
		}
	}
	return b.writeHeld(b.held)
}

// rested reports whether what is not carried any more may have rested on a base: the log
// has batches of its generation behind what is carried.
func (b *bases) rested(h heldBase, log *deltalog.Log, carried tidegate.LogPos) (bool, error) {
	last, err := log.LastOf(h.Generation)
	if err != nil || last <= carried.Seq {
		return false, err
	}
	_, at, err := log.At(last)
	return at.Generation == h.Generation, err
}

// setAside moves what is left of a base to quarantine, so that it stands in nobody's way.
func (b *bases) setAside(h *lostBase) error {
	n := b.s.n
	to := filepath.Join(quarantineDir(n.cfg.DataDir, b.s.id), fmt.Sprintf("base-%.12s", h.Name))
	from := b.manifest(h.heldBase)
	known, err := exists(n.deps.FS, from)
	if err != nil {
		return err
	}
	if known {
		if err := moveAside(n.deps.FS, from, to); err != nil {
			return err
		}
	}
	if known, err = exists(n.deps.FS, to); err != nil {
		return err
	}
	if known {
		h.aside = to
		err = quarantine.Write(n.deps.FS, to, quarantine.Summary{
			Kind: quarantine.KindBaseAside, StreamID: b.s.id, Reason: "damaged", Created: n.deps.Clock.Wall().UTC(), Generation: h.Generation, Note: h.why,
		})
	}
	b.s.lg.Error("base is damaged, and the log does not rest on it: going on without", "generation", uint32(h.Generation), "name", h.Name, keyErr, h.why, "path", h.aside)
	return err
}

// moveAside moves a file into a directory, which is made.
func moveAside(fsys vfs.FS, from, dir string) error {
	if err := durable.MkdirAll(fsys, dir); err != nil {
		return err
	}
	if err := fsys.Rename(from, filepath.Join(dir, filepath.Base(from))); err != nil {
		return err
	}
	return errors.Join(fsys.SyncDir(dir), fsys.SyncDir(filepath.Dir(from)))
}

func (b *bases) writeHeld(held []snapshot.Listed) error {
	f := heldFile{Version: heldVersion}
	for _, l := range held {
		f.Held = append(f.Held, heldBase{l.Generation, l.Opened, l.Name.String()})
	}
	raw, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(b.s.n.deps.FS, filepath.Join(b.dir, heldFileName), raw)
}

// hold writes down that a listed base is counted on, and lets it count.
func (b *bases) hold(l snapshot.Listed) error {
	s := b.s
	s.mu.Lock()
	held := slices.Clone(b.held)
	if !slices.ContainsFunc(held, func(h snapshot.Listed) bool { return h.Name == l.Name }) {
		held = append(held, l)
	}
	s.mu.Unlock() // one base at a time is taken, and none removed meanwhile: nobody else changes held
	if err := b.writeHeld(held); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b.held = held
	if ack, ok := s.ownAck(s.core.Ack()); ok {
		s.acks[s.n.cfg.Node] = ack
	}
	s.ring()
	s.lg.Info("base held", "generation", uint32(l.Generation), "opened", uint64(l.Opened), "start", l.Start.String(), "bytes", l.Bytes)
	return nil
}

// holds reports whether a base of the generation counts; mu is held.
func (b *bases) holds(g tidegate.Generation, opened tidegate.Epoch) bool {
	return slices.ContainsFunc(b.held, func(h snapshot.Listed) bool { return h.Generation == g && h.Opened == opened })
}

// findingLost names what the node says of a base that it has lost.
const findingLost = "base-damaged"

// lostFindings is what there is to say of them, until the node starts again; mu is held.
func (b *bases) lostFindings() (list []local.Finding) {
	if b == nil {
		return nil
	}
	for _, h := range b.lost {
		text := fmt.Sprintf("base %.12s of generation %d was damaged or gone when the node started, and is not needed for the log: %s", h.Name, h.Generation, h.why)
		if h.aside != "" {
			text += "; what was left of it is in " + h.aside
		}
		list = append(list, local.Finding{
			Name: findingLost, Severity: local.SeverityWarning, Text: text,
			Hint: "look at the disk; a newer base comes by itself, or by `tidegate standby base refresh`. `tidegate quarantine list` shows what was set aside",
		})
	}
	return list
}
