package gating

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/gating/backup"
	"github.com/tidegate/tidegate/internal/vfs"
)

// bucket makes one in the site's directory.
func (s *site) bucket() bucket.Bucket {
	s.t.Helper()
	at := filepath.Join(s.dir, "archive")
	if err := vfs.OS().MkdirAll(at); err != nil {
		s.t.Fatal(err)
	}
	return dir.New(vfs.OS(), at)
}

// The gate that leads backs the registry up when it is due, one after the other, lets
// go of old ones, and says so when it cannot.
func TestRegistryIsBackedUp(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.bucket()
	var away atomic.Bool
	away.Store(true)
	s.archive = func(context.Context) (bucket.Bucket, error) {
		if away.Load() {
			return nil, errors.New("no bucket today")
		}
		return b, nil
	}
	s.startGate("g1", nil, func(c *Config) {
		c.Backup = BackupConfig{Every: time.Second, Keep: archive.Keep{Last: 2}}
	})
	s.eventually("the doctor tells", func() error {
		if found := s.findingsAbout("registry-backup"); len(found) != 1 || !strings.Contains(found[0], "no bucket today") {
			return fmt.Errorf("says %q", found)
		}
		return nil
	})
	away.Store(false)
	var first backup.Backup
	s.eventually("three backups, of which two stay", func() error {
		list, err := backup.List(t.Context(), b, "demo")
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return errors.New("none yet")
		}
		if first.Revision == 0 {
			first = list[0]
		}
		if list[0] == first || len(list) > 2 {
			return fmt.Errorf("listed %v, first %v", list, first)
		}
		return nil
	})
	s.eventually("nothing is found", func() error {
		if found := s.findingsAbout("registry-backup"); len(found) > 0 {
			return fmt.Errorf("says %q", found)
		}
		return nil
	})
}
