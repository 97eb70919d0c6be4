package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

// Mark is the newest revision a gate has seen, by etcd cluster.
type Mark struct {
	ClusterID uint64 `json:"cluster_id,string"`
	Revision  int64  `json:"revision,string"`
	// Restored says of which backup the registry was made since; empty for none.
	Restored string `json:"restored,omitempty"`
}

// markFile lies beside the embedded member's data, so that a restore of the
// member's own directory leaves it alone.
const markFile = "registry-mark.json"

// Suspect compares the registry with this gate's mark. The answer is not empty
// when the registry may have been restored from an older backup: then epochs may
// have gone back, and no zero-loss claim may rest on it. It changes nothing:
// call SaveMark once the suspicion has been recorded.
func (s *Store) Suspect(ctx context.Context, fsys vfs.FS, dir string) (string, error) {
	path := filepath.Join(dir, markFile)
	now, err := s.now(ctx)
	if err != nil {
		return "", err
	}
	b, err := readFile(fsys, path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // this gate's first start
	}
	var old Mark
	if err == nil {
		err = json.Unmarshal(b, &old)
	}
	if err != nil {
		return "", fmt.Errorf("read registry mark %s: %w", path, err)
	}
	switch {
	case old.Restored != "":
		return "the registry was restored: " + old.Restored, nil
	case old.ClusterID != now.ClusterID:
		return fmt.Sprintf("the registry is another etcd cluster (%x) than this gate last saw (%x)", now.ClusterID, old.ClusterID), nil
	case now.Revision < old.Revision:
		return fmt.Sprintf("the registry is at revision %d, this gate has seen %d", now.Revision, old.Revision), nil
	}
	return "", nil
}

// SaveMark remembers the registry's revision; call it after a change of writer.
func (s *Store) SaveMark(ctx context.Context, fsys vfs.FS, dir string) error {
	now, err := s.now(ctx)
	if err != nil {
		return err
	}
	return saveMark(fsys, filepath.Join(dir, markFile), now)
}

func saveMark(fsys vfs.FS, path string, m Mark) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(fsys, path, append(b, '\n')); err != nil {
		return fmt.Errorf("write registry mark: %w", err)
	}
	return nil
}

func (s *Store) now(ctx context.Context) (Mark, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	r, err := s.client.Get(ctx, s.root+electionTable, clientv3.WithCountOnly())
	if err != nil {
		return Mark{}, s.fail("read revision of", electionTable, err)
	}
	return Mark{ClusterID: r.Header.ClusterId, Revision: r.Header.Revision}, nil
}

func readFile(fsys vfs.FS, path string) (b []byte, err error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(io.LimitReader(f, 1<<16))
}
