package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket/kms"
	"github.com/tidegate/tidegate/archive/bucket/open"
	"github.com/tidegate/tidegate/internal/cli"
)

func keysCommand() *ucli.Command {
	flags := []ucli.Flag{
		cli.OutputFlag(),
		&ucli.StringFlag{Name: "archive", Usage: "`FILE` with the archive's address: a block of its own, or the block archive of any role's file"},
	}
	return &ucli.Command{
		Name: "keys", Usage: "the keys of an archive that AWS KMS opens (archive.encryption.kms)",
		Subcommands: []*ucli.Command{
			{
				Name: "list", Usage: "list them, oldest first, and have KMS open each", ArgsUsage: " ",
				Description: "The last one is that of new objects. Ends with the code of the first one that KMS does not open.\n\n" +
					"Example:\n" +
					"   tidegate keys list --archive /etc/tidegate/standby.yaml",
				Flags: flags, Action: listKeys,
			},
			{
				Name: "rotate", Usage: "add a key, under the KMS key that the file names now, for the objects that are put from then on", ArgsUsage: " ",
				Description: "Objects that are there stay as they are, and the older keys with them: their KMS keys must live for as long as the\n" +
					"archive reaches back. Nodes that run use the new key within ten minutes.\n\n" +
					"Example:\n" +
					"   tidegate keys rotate --archive /etc/tidegate/standby.yaml",
				Flags: flags, Action: rotateKey,
			},
		},
	}
}

// keyResult is one key as the commands print it.
type keyResult struct {
	ID      string    `json:"id"`
	KMSKey  string    `json:"kms_key"`
	Archive string    `json:"archive"`
	Created time.Time `json:"created"`
	Opens   bool      `json:"opens"`
	Error   string    `json:"error,omitempty"`
}

func keyResultOf(s kms.State) keyResult {
	r := keyResult{ID: s.ID, KMSKey: s.KMSKey, Archive: s.Archive, Created: s.Created, Opens: s.Err == nil}
	if s.Err != nil {
		r.Error = s.Err.Error()
	}
	return r
}

// keyRing opens the ring of the archive that the flags name.
func keyRing(c *ucli.Context) (*kms.Ring, error) {
	if _, err := cli.Args(c); err != nil {
		return nil, err
	}
	if c.String("archive") == "" {
		return nil, cli.Usagef("which archive? --archive FILE")
	}
	block, err := archiveBlock(c)
	if err != nil {
		return nil, err
	}
	ring, err := open.Keys(c.Context, block.Config)
	if err == nil && ring == nil {
		err = &tidegate.Error{
			Op: "open keys of", Subject: block.URL, Class: tidegate.Misuse, Err: errors.New("the file has no archive.encryption.kms"),
			Hint: "keys of a key file are replaced by a new line in it: docs/operating/archive-buckets.md",
		}
	}
	return ring, err
}

func listKeys(c *ucli.Context) error {
	ring, err := keyRing(c)
	if err != nil {
		return err
	}
	states, err := ring.List(c.Context)
	if err != nil {
		return err
	}
	out, bad := []keyResult{}, error(nil)
	for _, s := range states {
		out = append(out, keyResultOf(s))
		if bad == nil {
			bad = s.Err
		}
	}
	err = cli.Print(c, out, func(w io.Writer) error { return writeKeys(w, out) })
	return errors.Join(err, bad)
}

func writeKeys(w io.Writer, keys []keyResult) error {
	if len(keys) == 0 {
		_, err := fmt.Fprintln(w, "no key yet: the first object that is put makes one")
		return err
	}
	t := cli.NewTable("key", "created", "opens", "KMS key")
	for _, k := range keys {
		opens := "yes"
		if !k.Opens {
			opens = "no"
		}
		t.Row(k.ID, k.Created.Format(time.RFC3339), opens, k.KMSKey)
	}
	_, err := t.WriteTo(w)
	return err
}

func rotateKey(c *ucli.Context) error {
	ring, err := keyRing(c)
	if err != nil {
		return err
	}
	d, err := ring.Rotate(c.Context)
	if err != nil {
		return err
	}
	return cli.Print(c, keyResultOf(kms.State{Document: d}), func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s under %s: new objects get it, within %s everywhere\n", d.ID, d.KMSKey, kms.LookEvery)
		return err
	})
}
