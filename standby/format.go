package standby

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/quarantine"
	"github.com/tidegate/tidegate/internal/vfs"
)

// NodeFile is the identity of a data directory; node.json.
type NodeFile struct {
	Version     int                  `json:"version"` // nodeFileVersion
	Node        tidegate.NodeName    `json:"node"`
	Incarnation tidegate.Incarnation `json:"incarnation"`
	// Streams names every stream that has ever had a directory here. A stream
	// that is named but gone was lost, and comes back as another incarnation.
	Streams []tidegate.StreamID `json:"streams"`
}

const (
	nodeFileVersion = 1
	nodeFileName    = "node.json"
	viewFileName    = "view.json"
	metaFileName    = "meta.json"
	lockFileName    = "lock"
)

// fileBytesMax bounds what is read of a small file.
const fileBytesMax = 16 << 20

// Format makes dir, which must be missing or empty, the data directory of node
// and draws its incarnation. A node with a new incarnation starts in limbo on
// every stream that already exists, until the gate has let it in.
func Format(fsys vfs.FS, dir string, node tidegate.NodeName) (NodeFile, error) {
	fail := func(class tidegate.Class, hint string, err error) (NodeFile, error) {
		return NodeFile{}, &tidegate.Error{Op: "format", Subject: dir, Class: class, Hint: hint, Err: err}
	}
	if err := tidegate.ValidName(string(node)); err != nil {
		return fail(tidegate.Misuse, "", err)
	}
	names, err := fsys.List(dir)
	switch {
	case errors.Is(err, tidegate.ErrNotFound):
	case err != nil:
		return fail(tidegate.Permanent, "", err)
	case len(names) > 0:
		return fail(tidegate.Misuse, "move what is there aside first; format never deletes", fmt.Errorf("directory is not empty: it has %s", names[0]))
	}
	if err := durable.MkdirAll(fsys, dir); err != nil {
		return fail(tidegate.Permanent, "", err)
	}
	f := NodeFile{Version: nodeFileVersion, Node: node, Incarnation: tidegate.NewID()}
	if err := f.write(fsys, dir); err != nil {
		return fail(tidegate.Permanent, "", err)
	}
	return f, nil
}

// ReadNodeFile reads the identity of a formatted data directory.
func ReadNodeFile(fsys vfs.FS, dir string) (NodeFile, error) {
	path := filepath.Join(dir, nodeFileName)
	b, err := readFile(fsys, path)
	if errors.Is(err, tidegate.ErrNotFound) {
		return NodeFile{}, &tidegate.Error{
			Op: "open", Subject: dir, Class: tidegate.Misuse,
			Hint: "a new node: run `tidegate standby format`; a known node: its disk is not mounted or was lost",
			Err:  fmt.Errorf("not formatted: no %s", nodeFileName),
		}
	}
	if err != nil {
		return NodeFile{}, fmt.Errorf("open %s: %w", dir, err)
	}
	var f NodeFile
	if err := json.Unmarshal(b, &f); err != nil {
		return NodeFile{}, fmt.Errorf("open %s: %w", dir, &tidegate.CorruptError{Path: path, Offset: -1, What: err.Error()})
	}
	if f.Version != nodeFileVersion {
		return NodeFile{}, fmt.Errorf("open %s: version %d: %w", path, f.Version, tidegate.ErrUnsupported)
	}
	if f.Incarnation.IsZero() {
		return NodeFile{}, fmt.Errorf("open %s: %w", dir, &tidegate.CorruptError{Path: path, Offset: -1, What: "no incarnation"})
	}
	return f, nil
}

func (f NodeFile) write(fsys vfs.FS, dir string) error {
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(fsys, filepath.Join(dir, nodeFileName), b)
}

// with returns f naming stream.
func (f NodeFile) with(stream tidegate.StreamID) NodeFile {
	f.Streams = append(slices.Clone(f.Streams), stream)
	return f
}

func streamDir(dataDir string, stream tidegate.StreamID) string {
	return filepath.Join(dataDir, "streams", stream.String())
}

func quarantineRoot(dataDir string) string { return filepath.Join(dataDir, quarantine.DirName) }

func quarantineDir(dataDir string, stream tidegate.StreamID) string {
	return filepath.Join(quarantineRoot(dataDir), stream.String())
}

// SetAside moves the log of a damaged stream to quarantine and gives the stream
// a new incarnation, in limbo: the operator's order after a fault of class
// corrupt. The promise stays. What the node had written down of the log lies beside
// it there, under the log's name and its own. The node must not be running; after an
// error the same order may be given again. It returns where the log lies now;
// clk stamps the summary there.
func SetAside(fsys vfs.FS, clk clock.Clock, dataDir string, stream tidegate.StreamID) (string, error) {
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("set aside stream %s: %w", stream, err)
	}
	lock, err := fsys.Lock(filepath.Join(dataDir, lockFileName))
	if err != nil {
		return fail(err)
	}
	to, err := setAside(fsys, clk, dataDir, stream)
	if err := errors.Join(err, lock.Close()); err != nil {
		return fail(err)
	}
	return to, nil
}

func setAside(fsys vfs.FS, clk clock.Clock, dataDir string, stream tidegate.StreamID) (string, error) {
	dir := streamDir(dataDir, stream)
	meta, err := readMeta(fsys, dir)
	if err != nil {
		return "", err
	}
	// Limbo first: should the power go now, the node knows that it does not know.
	meta = meta.Damaged(tidegate.NewID())
	if err := writeMeta(fsys, dir, meta); err != nil {
		return "", err
	}
	q := quarantineDir(dataDir, stream)
	if err := durable.MkdirAll(fsys, q); err != nil {
		return "", err
	}
	to := filepath.Join(q, fmt.Sprintf("aside-%.8s", meta.Incarnation))
	// The log goes last: cut short before, the same order finishes it. What is said of
	// it goes along: where it begins, without which nobody could put it back and which
	// may be the damage itself, what is certain of it, and what was counted on with it.
	// The new incarnation has acknowledged nothing, and finds all of that anew.
	for _, name := range []string{beginFileName, suspectFile, filepath.Join(baseDirName, heldFileName)} {
		from := filepath.Join(dir, name)
		err := fsys.Rename(from, to+"-"+filepath.Base(name))
		if errors.Is(err, tidegate.ErrNotFound) {
			continue
		}
		if err == nil {
			err = errors.Join(fsys.SyncDir(q), fsys.SyncDir(filepath.Dir(from)))
		}
		if err != nil {
			return to, err
		}
	}
	if err := fsys.Rename(filepath.Join(dir, "log"), to); err != nil {
		return "", err
	}
	// Of what is in the log nothing is said: it is damaged. A set-aside that is cut
	// off here leaves it without a summary.
	return to, errors.Join(fsys.SyncDir(q), fsys.SyncDir(dir), quarantine.Write(fsys, to, quarantine.Summary{
		Kind: quarantine.KindLogAside, StreamID: stream, Reason: "set-aside", Created: clk.Wall().UTC(),
		CutEpoch: meta.Promise.Epoch, Note: "the node began anew as incarnation " + meta.Incarnation.String(),
	}))
}

func readMeta(fsys vfs.FS, dir string) (fence.NodeMeta, error) {
	path := filepath.Join(dir, metaFileName)
	b, err := readFile(fsys, path)
	if err != nil {
		return fence.NodeMeta{}, fmt.Errorf("read %s: %w", path, err)
	}
	m, err := fence.ParseNodeMeta(b)
	if err != nil {
		return fence.NodeMeta{}, fmt.Errorf("read %s: %w", path, errors.Join(err, &tidegate.CorruptError{Path: path, Offset: -1, What: err.Error()}))
	}
	return m, nil
}

func writeMeta(fsys vfs.FS, dir string, m fence.NodeMeta) error {
	b, err := m.Marshal()
	if err != nil {
		return fmt.Errorf("write node meta: %w", err)
	}
	return durable.WriteFile(fsys, filepath.Join(dir, metaFileName), b)
}

func readFile(fsys vfs.FS, path string) (b []byte, err error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(io.LimitReader(f, fileBytesMax))
}
