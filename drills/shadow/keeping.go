package shadow

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"

	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/place"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/internal/config"
)

// Evidence says where the report goes, and who signs it. Exactly one of Directory and
// Archive is set.
type Evidence struct {
	Directory string       `yaml:"directory"` // of this machine
	Archive   place.Config `yaml:"archive"`   // a bucket or prefix of the drills' own
	// State is a directory of this machine for what lies in no chain: a report that could
	// not be appended, and the notes of live drills. Default: what Directory lies in, or
	// /var/lib/tidegate-drill beside an archive.
	State string   `yaml:"state"`
	Key   string   `yaml:"key"`   // the drill's own signing key, as `tidegate drill key` makes it
	Trust []string `yaml:"trust"` // public keys of earlier drills, besides this one's
}

// stateDefault is the drill's user's own directory, as the package makes it.
const stateDefault = "/var/lib/tidegate-drill"

// SetDefaults fills in what is not set.
func (e Evidence) SetDefaults() Evidence {
	e.Archive = e.Archive.SetDefaults()
	switch {
	case e.State != "":
	case e.Directory == "":
		e.State = stateDefault
	case filepath.IsAbs(e.Directory): // another one is a mistake by itself
		e.State = filepath.Dir(e.Directory)
	}
	return e
}

// Validate reports every broken rule.
func (e Evidence) Validate() error {
	errs := []error{config.AbsPath("key", e.Key), config.Under("archive", e.Archive.Validate())}
	if e.State != "" {
		errs = append(errs, config.AbsPath("state", e.State))
	}
	switch inArchive := !e.Archive.IsZero(); {
	case inArchive && e.Directory != "":
		errs = append(errs, config.Broken("directory", "want none beside archive: a chain lies in one place", e.Directory))
	case !inArchive && e.Directory == "":
		errs = append(errs, config.Broken("directory", "want it, or archive: where the reports go", e.Directory))
	case !inArchive:
		errs = append(errs, config.AbsPath("directory", e.Directory))
	}
	for i, k := range e.Trust {
		errs = append(errs, config.AbsPath(fmt.Sprintf("trust[%d]", i), k))
	}
	return errors.Join(errs...)
}

// own looks whether the archive that the evidence goes to is the drills' own to write: no
// log, no base and no copy of a registry lies in it. Without an archive there is no check.
func (d *Drill) own(ctx context.Context) []evidence.Check {
	cfg := d.cfg.Evidence.Archive
	if cfg.IsZero() {
		return nil
	}
	c := evidence.Check{
		Name: "archive of the evidence", Kind: "isolation", Wanted: "a bucket or prefix of the drills' own, with no service's log or base in it",
		Got: &cfg.URL, Outcome: evidence.CheckPassed,
	}
	b, err := d.opts.Open(ctx, cfg)
	var why string
	if err == nil {
		why, err = foreign(ctx, b)
	}
	if u, bad := url.Parse(cfg.URL); why == "" && bad == nil && u.Scheme == "file" {
		why = occupied(resolved(u.Path), d.cfg.Live)
	}
	switch {
	case why != "":
		c.Outcome, c.Why = evidence.CheckFailed, why
	case err != nil:
		c.Outcome, c.Why = evidence.CheckUnknown, evidence.Sentence(err)
	}
	return []evidence.Check{c}
}

// foreign says what lies in an archive that drills have no part in; empty: nothing.
func foreign(ctx context.Context, b bucket.Bucket) (string, error) {
	for _, prefix := range []string{archive.StreamsPrefix, archive.RegistryPrefix} {
		for o, err := range b.List(ctx, prefix, "") {
			if err != nil {
				return "", err
			}
			return fmt.Sprintf("it is the archive of a service or a gate, which has %s: give evidence.archive a bucket or prefix of its own", o.Name), nil
		}
	}
	return "", nil
}
