package gating

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/gating/backup"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/retry"
)

// BackupConfig says when the gate that leads backs the registry up, where the file
// names an archive.
type BackupConfig struct {
	Every time.Duration `yaml:"every"` // default 1h
	// Keep says which backups stay. Default: 48 hours, 31 days, 12 months.
	Keep archive.Keep `yaml:"keep"`
}

// SetDefaults fills what was left out.
func (c BackupConfig) SetDefaults() BackupConfig {
	if c.Every == 0 {
		c.Every = time.Hour
	}
	if c.Keep == (archive.Keep{}) {
		c.Keep = archive.Keep{Hourly: 48, Daily: 31, Monthly: 12}
	}
	return c
}

// backupEveryMin keeps names, which are whole seconds, apart.
const backupEveryMin = time.Second

// Validate reports every broken rule.
func (c BackupConfig) Validate() error {
	err := config.Under("keep", c.Keep.Validate())
	if c.Every < backupEveryMin {
		err = errors.Join(err, config.Broken("every", "want at least "+backupEveryMin.String(), c.Every))
	}
	return err
}

// backups is what this gate knows of the registry's backups. It may be used
// concurrently.
type backups struct {
	cfg  BackupConfig
	open func(context.Context) (bucket.Bucket, error) // nil: there is no archive

	mu     sync.Mutex
	newest backup.Backup // its Revision is 0 while none is known
	failed error         // of the newest try; nil: it was good, or there was none yet
	taken  int           // by this process
	tries  int           // that failed
	stuck  error         // why old ones are not removed; nil: they are
}

// backUp backs the registry up while l leads, until ctx ends.
func (c *controller) backUp(ctx context.Context) error {
	if c.backups.open == nil {
		return nil
	}
	if err := backup.Sweep(c.fs, c.dir, c.now()); err != nil {
		c.log.Warn("what killed gates left of backups is not removed", "err", err)
	}
	b := retry.Policy{First: time.Second, Max: time.Minute}.Backoff()
	for {
		wait, err := c.backUpWhenDue(ctx)
		if err != nil && ctx.Err() == nil {
			c.log.Warn("registry not backed up", "err", err)
			wait = b.Next()
		} else {
			b.Reset()
		}
		c.backups.note(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// backUpWhenDue takes a backup if one is due, by whichever gate the newest was, and
// returns how long the next one can wait.
func (c *controller) backUpWhenDue(ctx context.Context) (wait time.Duration, err error) {
	to, err := c.backups.open(ctx)
	if err != nil {
		return 0, err
	}
	list, err := backup.List(ctx, to, c.cluster)
	if err != nil {
		return 0, err
	}
	newest, err := backup.Newest(list, c.now().Add(backup.ClockSlack))
	c.backups.found(newest)
	if age := c.now().Sub(newest.Taken); err == nil && age < c.backups.cfg.Every {
		return c.backups.cfg.Every - age, nil
	}
	newest, err = backup.Take(ctx, c.store, c.cluster, c.fs, c.dir, to, c.now())
	if err != nil {
		return 0, err
	}
	c.backups.took(newest)
	c.log.Info("registry backed up", "object", newest.Name(), "revision", newest.Revision, "bytes", newest.Bytes)
	gone, err := backup.Thin(ctx, to, c.cluster, c.backups.cfg.Keep)
	if len(gone) > 0 {
		c.log.Info("old backups of the registry removed", "backups", len(gone), "newest", gone[len(gone)-1].Name())
	}
	if err != nil {
		c.log.Warn("old backups of the registry not removed", "err", err)
	}
	c.backups.thinned(err)
	return c.backups.cfg.Every, nil
}

func (b *backups) note(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed = err
	if err != nil {
		b.tries++
	}
}

func (b *backups) thinned(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stuck = err
}

func (b *backups) found(newest backup.Backup) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.newest = newest
}

func (b *backups) took(newest backup.Backup) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.newest = newest
	b.taken++
}

// late is after how long without a backup people are told.
func (b *backups) late() time.Duration { return 2*b.cfg.Every + 5*time.Minute }
