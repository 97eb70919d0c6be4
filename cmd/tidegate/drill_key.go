package main

import (
	"fmt"
	"io"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/internal/cli"
)

func drillKeyCommand() *ucli.Command {
	return &ucli.Command{
		Name: "key", Usage: "the key that signs reports of drills",
		Subcommands: []*ucli.Command{
			{
				Name: "new", Usage: "make one, which its owner alone may read", ArgsUsage: "FILE", Flags: []ucli.Flag{cli.OutputFlag()}, Action: newDrillKey,
				Description: "An Ed25519 key as PKCS#8 in PEM form, mode 0600. A file that is there is refused. Keep the public half, which is\n" +
					"printed, where whoever changes evidence cannot change it: it is what `tidegate drill verify` trusts.\n\n" +
					"Example:\n" +
					"   tidegate drill key new /etc/tidegate/drill.key >drill.pub",
			},
			{
				Name: "show", Usage: "print the public half of one", ArgsUsage: "FILE", Flags: []ucli.Flag{cli.OutputFlag()}, Action: showDrillKey,
			},
		},
	}
}

// drillKey is a key as the commands print it. The private half is never printed.
type drillKey struct {
	File   string         `json:"file"`
	ID     evidence.KeyID `json:"id"`
	Public string         `json:"public"` // PEM
}

func newDrillKey(c *ucli.Context) error { return printDrillKey(c, evidence.NewKey) }

func showDrillKey(c *ucli.Context) error { return printDrillKey(c, evidence.LoadKey) }

func printDrillKey(c *ucli.Context, get func(path string) (*evidence.Key, error)) error {
	args, err := cli.Args(c, "FILE")
	if err != nil {
		return err
	}
	k, err := get(args[0])
	if err != nil {
		return err
	}
	out := drillKey{args[0], k.Public().ID(), string(k.Public().PEM())}
	return cli.Print(c, out, func(w io.Writer) error {
		// What stands before a PEM block is a remark to every reader of such files.
		_, err := fmt.Fprintf(w, "public half of %s, key %s\n%s", out.File, out.ID, out.Public)
		return err
	})
}
