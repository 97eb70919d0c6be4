package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Mark is the newest revision a gate has seen, by etcd cluster.
type Mark struct {
	ClusterID uint64 `json:"cluster_id,string"`
	Revision  int64  `json:"revision,string"`
}

// WriteFile replaces a file durably; see package durable.
type WriteFile func(path string, data []byte) error

// markFile lies beside the embedded member's data, so that a restore of the
// member's own directory leaves it alone.
const markFile = "registry-mark.json"

// CheckMark compares the registry with this gate's mark. suspect is not empty
// when the registry may have been restored from an older backup: then epochs may
// have gone back, and no zero-loss claim may rest on it. The mark is brought up
// to date in either case.
func (s *Store) CheckMark(ctx context.Context, dir string, write WriteFile) (suspect string, err error) {
	path := filepath.Join(dir, markFile)
	now, err := s.now(ctx)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", s.saveMark(path, now, write)
	case err != nil:
		return "", fmt.Errorf("read registry mark: %w", err)
	}
	var old Mark
	if err := json.Unmarshal(b, &old); err != nil {
		return "", fmt.Errorf("read registry mark %s: %w", path, err)
	}
	switch {
	case old.ClusterID != now.ClusterID:
		suspect = fmt.Sprintf("the registry is another etcd cluster (%x) than this gate last saw (%x)", now.ClusterID, old.ClusterID)
	case now.Revision < old.Revision:
		suspect = fmt.Sprintf("the registry is at revision %d, this gate has seen %d", now.Revision, old.Revision)
	}
	return suspect, s.saveMark(path, now, write)
}

// SaveMark remembers the registry's revision; call it after a change of writer.
func (s *Store) SaveMark(ctx context.Context, dir string, write WriteFile) error {
	now, err := s.now(ctx)
	if err != nil {
		return err
	}
	return s.saveMark(filepath.Join(dir, markFile), now, write)
}

func (s *Store) saveMark(path string, m Mark, write WriteFile) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := write(path, append(b, '\n')); err != nil {
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
