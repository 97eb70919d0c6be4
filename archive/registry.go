package archive

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
)

// RegistryPrefix begins the names of all backups of registries.
const RegistryPrefix = "registry/"

const (
	backupSuffix   = ".db"
	backupTime     = "20060102T150405Z" // UTC: names sort as their times do
	revisionDigits = 16                 // hex
)

// Backup is what the name of a registry's backup says.
type Backup struct {
	Cluster  string
	Taken    time.Time // UTC, whole seconds
	Revision int64     // of the registry, above 0
}

// BackupsPrefix begins the names of a cluster's backups.
func BackupsPrefix(cluster string) string { return RegistryPrefix + cluster + "/" }

// Name is the backup's object.
func (b Backup) Name() string {
	return fmt.Sprintf("%s%s-%0*x%s", BackupsPrefix(b.Cluster), b.Taken.UTC().Format(backupTime), revisionDigits, uint64(b.Revision), backupSuffix)
}

// ParseBackup takes a backup's name apart; of any other name its error says why.
func ParseBackup(name string) (b Backup, err error) {
	e, err := Parse(name)
	if err == nil && e.Kind != KindBackup {
		err = fmt.Errorf("object %q: %w", name, errNotOurs)
	}
	return e.Backup, err
}

func parseBackup(rest string) (b Backup, err error) {
	cluster, base, ok := strings.Cut(rest, "/")
	stem, named := strings.CutSuffix(base, backupSuffix)
	taken, revision, cut := strings.Cut(stem, "-")
	if !ok || !named || !cut || tidegate.ValidName(cluster) != nil {
		return b, errNotOurs
	}
	b.Cluster = cluster
	if b.Taken, err = time.Parse(backupTime, taken); err != nil {
		return b, errNotOurs
	}
	n, err := parseHex(revision, revisionDigits)
	if b.Revision = int64(n); err != nil || b.Revision <= 0 { //nolint:gosec // what does not fit is not positive
		return b, errNotOurs
	}
	return b, nil
}

// Begin makes sure that the bucket is an archive of this version, or makes it one.
func Begin(ctx context.Context, b bucket.Bucket) error {
	for {
		text, _, err := bucket.ReadAll(ctx, b, FormatName, DocumentBytesMax)
		if err == nil {
			return CheckFormat(text)
		}
		if !errors.Is(err, tidegate.ErrNotFound) {
			return err
		}
		_, err = b.Put(ctx, FormatName, strings.NewReader(string(FormatDocument())), bucket.PutOptions{IfAbsent: true})
		if err != nil && !errors.Is(err, tidegate.ErrConflict) {
			return err
		}
	}
}
