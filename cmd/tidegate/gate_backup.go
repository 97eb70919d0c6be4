package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/open"
	"github.com/tidegate/tidegate/gating/backup"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/vfs"
)

func gateBackupCommand() *ucli.Command {
	at := &ucli.StringFlag{Name: "at", Usage: "the newest one as of this `TIME`, such as 2026-03-01T12:00:00Z", DefaultText: "now"}
	file := roleFileFlag("gate")
	return &ucli.Command{
		Name: "backup", Usage: "the copies of the registry that lie in the archive of the gate's file",
		Subcommands: []*ucli.Command{
			{
				Name: "list", Usage: "list them, oldest first", ArgsUsage: " ",
				Flags: []ucli.Flag{file, cli.OutputFlag()}, Action: listBackups,
			},
			{
				Name: "take", Usage: "back the registry up now, on the machine of a gate that runs", ArgsUsage: " ",
				Flags: []ucli.Flag{file, cli.OutputFlag()}, Action: takeBackup,
			},
			{
				Name: "get", Usage: "fetch one into a file, for `etcdutl snapshot restore` of a cluster of its own", ArgsUsage: "FILE",
				Flags: []ucli.Flag{file, at, cli.OutputFlag()}, Action: getBackup,
			},
			{
				Name: "restore", Usage: "make the data of the gate's own etcd member out of one; the gate is stopped", ArgsUsage: " ",
				Description: "What is there is moved aside, not removed. Started on it, the gate trusts no record: no zero-loss claim is made\n" +
					"for a stream until its live writer has armed its gate. A registry of which no backup is left is rebuilt from\n" +
					"the standby nodes: `tidegate gate rebuild`.",
				Flags: []ucli.Flag{
					file, at, cli.OutputFlag(),
					&ucli.StringFlag{Name: "from", Usage: "restore this `FILE` of etcdctl or of `tidegate gate backup get`, and not one of the archive"},
					&ucli.BoolFlag{Name: "dry-run", Usage: "say which one; change nothing"},
				},
				Action: restoreBackup,
			},
		},
	}
}

// backupResult is one backup as the commands print it.
type backupResult struct {
	Name     string    `json:"name"`
	Taken    time.Time `json:"taken,omitzero"`
	Revision int64     `json:"revision"`
	Bytes    int64     `json:"bytes"`
}

func backupResultOf(b backup.Backup) backupResult {
	return backupResult{b.Name(), b.Taken, b.Revision, b.Bytes}
}

func (r backupResult) line() string {
	text := fmt.Sprintf("revision %d, %s", r.Revision, cli.Size(r.Bytes))
	if r.Taken.IsZero() {
		return text // a file does not say when it was taken
	}
	return fmt.Sprintf("of %s, %s", r.Taken.Format(time.RFC3339), text)
}

// gateArchive reads the gate's file and opens its archive.
func gateArchive(c *ucli.Context) (gateFile, bucket.Bucket, error) {
	f, err := config.Load[gateFile](roleFile(c))
	if err != nil {
		return f, nil, err
	}
	if f.Archive.IsZero() {
		return f, nil, &tidegate.Error{
			Op: "open archive of", Subject: roleFile(c), Class: tidegate.Misuse,
			Err: errors.New("the file names none"), Hint: "give it an `archive` block, see docs/operating/archive.md",
		}
	}
	b, err := open.Open(c.Context, f.Archive)
	return f, b, err
}

// chosenBackup is the one that --at means.
func chosenBackup(c *ucli.Context, f gateFile, b bucket.Bucket) (backup.Backup, error) {
	at := time.Now().Add(backup.ClockSlack)
	if text := c.String("at"); text != "" {
		var err error
		if at, err = time.Parse(time.RFC3339, text); err != nil {
			return backup.Backup{}, cli.Usagef("--at %q: want a time such as 2026-03-01T12:00:00Z", text)
		}
	}
	list, err := backup.List(c.Context, b, f.Node.Cluster)
	if err != nil {
		return backup.Backup{}, err
	}
	one, err := backup.Newest(list, at)
	if err != nil {
		return one, &tidegate.Error{Op: "find", Subject: b.String(), Class: tidegate.Permanent, Err: err, Hint: "`tidegate gate backup list` says which there are; without any: `tidegate gate rebuild`"}
	}
	return one, nil
}

func listBackups(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	f, b, err := gateArchive(c)
	if err != nil {
		return err
	}
	list, err := backup.List(c.Context, b, f.Node.Cluster)
	if err != nil {
		return err
	}
	out := make([]backupResult, 0, len(list))
	for _, one := range list {
		out = append(out, backupResultOf(one))
	}
	return cli.Print(c, out, func(w io.Writer) error {
		if len(out) == 0 {
			_, err := fmt.Fprintf(w, "no backup of the registry of cluster %s in %s\n", f.Node.Cluster, b)
			return err
		}
		t := cli.NewTable("TAKEN", "REVISION", "SIZE", "OBJECT")
		for _, r := range out {
			t.Row(r.Taken.Format(time.RFC3339), fmt.Sprint(r.Revision), cli.Size(r.Bytes), r.Name)
		}
		_, err := t.WriteTo(w)
		return err
	})
}

func takeBackup(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	f, b, err := gateArchive(c)
	if err != nil {
		return err
	}
	store, err := registry.Open(f.Node.Cluster, f.Gate.Registry)
	if err != nil {
		return err
	}
	defer store.Close() //nolint:errcheck // it was only read
	one, err := backup.Take(c.Context, store, f.Node.Cluster, vfs.OS(), f.Gate.Dir, b, time.Now())
	if err != nil {
		return err
	}
	r := backupResultOf(one)
	return cli.Print(c, r, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "backed up: %s\n", r.line())
		return err
	})
}

func getBackup(c *ucli.Context) error {
	args, err := cli.Args(c, "FILE")
	if err != nil {
		return err
	}
	f, b, err := gateArchive(c)
	if err != nil {
		return err
	}
	one, err := chosenBackup(c, f, b)
	if err != nil {
		return err
	}
	path, err := filepath.Abs(args[0])
	if err != nil {
		return err
	}
	if err := backup.Fetch(c.Context, b, one, vfs.OS(), path); err != nil {
		return err
	}
	r := backupResultOf(one)
	return cli.Print(c, r, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: %s\n", path, r.line())
		return err
	})
}

// restoredBackup is what restore did.
type restoredBackup struct {
	From   string       `json:"from"`
	Saved  backupResult `json:"backup"`
	Dir    string       `json:"dir"`
	Aside  string       `json:"aside,omitempty"` // what was there before
	DryRun bool         `json:"dry_run,omitempty"`
}

func restoreBackup(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	var r restoredBackup
	var f gateFile
	var err error
	if from := c.String("from"); from != "" {
		if c.String("at") != "" {
			return cli.Usagef("gate backup restore: want --from or --at, not both")
		}
		if f, err = config.Load[gateFile](roleFile(c)); err == nil {
			err = restoreFrom(c, f, from, from, &r)
		}
	} else {
		f, err = restoreArchived(c, &r)
	}
	if err != nil {
		return err
	}
	r.Dir = f.Gate.Registry.Dir
	return cli.Print(c, r, func(w io.Writer) error {
		verb := "restored from"
		if r.DryRun {
			verb = "would restore from"
		}
		fmt.Fprintf(w, "%s %s: %s\n", verb, r.From, r.Saved.line())
		if r.Aside != "" {
			fmt.Fprintf(w, "what was there lies in %s\n", r.Aside)
		}
		if !r.DryRun {
			fmt.Fprintln(w, "start the gate; it trusts no record until live writers have armed theirs")
		}
		return nil
	})
}

// restoreArchived fetches the backup into the gate's directory first.
func restoreArchived(c *ucli.Context, r *restoredBackup) (gateFile, error) {
	f, b, err := gateArchive(c)
	if err != nil {
		return f, err
	}
	one, err := chosenBackup(c, f, b)
	if err != nil {
		return f, err
	}
	r.From, r.Saved = one.Name(), backupResultOf(one)
	if r.DryRun = c.Bool("dry-run"); r.DryRun {
		return f, nil
	}
	fsys := vfs.OS()
	path := filepath.Join(f.Gate.Dir, fmt.Sprintf("restore-%s.db", tidegate.NewID()))
	if err := fsys.MkdirAll(f.Gate.Dir); err != nil {
		return f, err
	}
	defer fsys.Remove(path) //nolint:errcheck // a copy of what the archive has
	if err := backup.Fetch(c.Context, b, one, fsys, path); err != nil {
		return f, err
	}
	return f, restoreFrom(c, f, path, one.Name(), r)
}

func restoreFrom(c *ucli.Context, f gateFile, path, name string, r *restoredBackup) error {
	saved, err := registry.CheckBackup(vfs.OS(), path)
	if err != nil {
		return err
	}
	if r.From = name; r.Saved.Name == "" {
		r.Saved = backupResult{Name: name, Revision: saved.Revision, Bytes: saved.Bytes}
	}
	if r.DryRun = c.Bool("dry-run"); r.DryRun {
		return nil
	}
	note := fmt.Sprintf("from %s, revision %d", name, saved.Revision)
	r.Aside, err = registry.RestoreMember(vfs.OS(), f.Node.Cluster, f.Gate.Registry, f.Gate.Dir, path, note)
	return err
}
