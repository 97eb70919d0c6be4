package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

// Saved is what a backup holds: the registry as of one revision.
type Saved struct {
	Revision int64
	Bytes    int64
}

// SaveTo writes a copy of the whole etcd that the registry is in to the new file
// path, in the form of `etcdctl snapshot save`, and reads it back. The file is
// synced, its name is not. What an error leaves there is worth nothing.
func (s *Store) SaveTo(ctx context.Context, fsys vfs.FS, path string) (Saved, error) {
	r, err := s.client.Snapshot(ctx)
	if err != nil {
		return Saved{}, s.fail("take backup", "", err)
	}
	f, err := fsys.Create(path)
	if err == nil {
		_, err = io.Copy(f, r)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err = errors.Join(err, r.Close()); err != nil {
		return Saved{}, s.fail("take backup", "", err)
	}
	return CheckBackup(fsys, path)
}

// CheckBackup reads a backup in the file path of this machine from end to end. One
// that is cut or damaged is a *tidegate.CorruptError.
func CheckBackup(fsys vfs.FS, path string) (Saved, error) {
	damaged := func(what string) (Saved, error) {
		return Saved{}, &tidegate.CorruptError{Path: path, Offset: -1, What: what}
	}
	f, err := fsys.Open(path)
	if err != nil {
		return Saved{}, err
	}
	defer f.Close() //nolint:errcheck // read only
	size, err := f.Size()
	if err != nil {
		return Saved{}, err
	}
	// etcd appends the SHA-256 of the database, whose pages are at least 512 bytes.
	if size%512 != sha256.Size {
		return damaged(fmt.Sprintf("%d bytes are no backup of etcd, or a part of one", size))
	}
	sum, want := sha256.New(), make([]byte, sha256.Size)
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, size-sha256.Size)); err != nil {
		return Saved{}, err
	}
	if _, err := f.ReadAt(want, size-sha256.Size); err != nil && !errors.Is(err, io.EOF) {
		return Saved{}, err
	}
	if got := sum.Sum(nil); !bytes.Equal(got, want) {
		return damaged(fmt.Sprintf("checksum mismatch (want %.4x, got %.4x)", want, got))
	}
	st, err := snapshot.NewV3(zap.NewNop()).Status(path)
	if err != nil {
		return damaged(err.Error())
	}
	return Saved{Revision: st.Revision, Bytes: size}, nil
}

// Names in the registry's directory.
const (
	dataName      = "etcd"
	restoringName = "etcd.restoring"
	asidePrefix   = "etcd.aside-"
)

// RestoreMember makes the data of the embedded member out of a backup in the file
// from. What is there already is moved aside and returned, "" if nothing was. The
// member is of another etcd cluster then, and gateDir, the gate's own directory, says
// that its registry was restored, so that the gate trusts no record of it until live
// writers have armed theirs. No gate may be running on it: that is
// tidegate.ErrConflict, as far as it can be seen.
//
// It may be killed at any point and called again.
func RestoreMember(fsys vfs.FS, cluster string, cfg Config, gateDir, from, note string) (aside string, err error) {
	fail := func(class tidegate.Class, err error, hint string) (string, error) {
		return aside, &tidegate.Error{Op: "restore registry", Subject: cfg.Dir, Class: class, Err: err, Hint: hint}
	}
	if !cfg.Embedded() {
		return fail(tidegate.Misuse, errors.New("it is an etcd cluster of its own"), "restore that with `etcdutl snapshot restore`, under a new token")
	}
	if alive(cfg.Socket) {
		return fail(tidegate.Transient, fmt.Errorf("a gate is running on it: %w", tidegate.ErrConflict), "stop the gate first")
	}
	if _, err := CheckBackup(fsys, from); err != nil {
		return fail(tidegate.ClassOf(err), err, "")
	}
	data, restoring := filepath.Join(cfg.Dir, dataName), filepath.Join(cfg.Dir, restoringName)
	if err := errors.Join(fsys.MkdirAll(cfg.Dir), fsys.MkdirAll(gateDir), durable.RemoveTree(fsys, restoring)); err != nil { // it is of a call that was killed
		return fail(tidegate.Permanent, err, "")
	}
	token := tidegate.NewID().String()
	err = snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: from, Name: memberName, OutputDataDir: restoring, PeerURLs: []string{peerURL},
		InitialCluster: memberName + "=" + peerURL, InitialClusterToken: clusterToken(cluster) + "-" + token,
	})
	if err != nil {
		return fail(tidegate.Permanent, err, "")
	}
	// Distrusted first: a gate that starts between the two steps distrusts too much.
	if err := saveMark(fsys, filepath.Join(gateDir, markFile), Mark{Restored: note}); err != nil {
		return fail(tidegate.Permanent, err, "")
	}
	if _, err := fsys.Stat(data); err == nil {
		aside = filepath.Join(cfg.Dir, asidePrefix+token)
		if err := fsys.Rename(data, aside); err != nil {
			return fail(tidegate.Permanent, err, "")
		}
	}
	if err := errors.Join(fsys.Rename(restoring, data), fsys.SyncDir(cfg.Dir)); err != nil {
		return fail(tidegate.Permanent, err, "")
	}
	return aside, nil
}

// alive reports whether somebody answers at an embedded member's socket.
func alive(socket string) bool {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return false
	}
	_ = conn.Close() // it was opened
	return true
}
