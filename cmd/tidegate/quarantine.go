package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/agent"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/quarantine"
	"github.com/tidegate/tidegate/stores/postgres/apply"
)

func quarantineCommand() *ucli.Command {
	flags := []ucli.Flag{
		cli.OutputFlag(),
		&ucli.StringSliceFlag{Name: "data", Usage: "look only in `DIR`: a data directory, a warm server's home, a journal; may be said more than once"},
		&ucli.StringFlag{Name: "standby-config", Value: "/etc/tidegate/standby.yaml", Usage: "the standby's `FILE`; passed over when it is not there"},
		&ucli.StringFlag{Name: "agent-config", Value: "/etc/tidegate/agent.yaml", Usage: "the agent's `FILE`; passed over when it is not there"},
	}
	return &ucli.Command{
		Name:  "quarantine",
		Usage: "what this machine's daemons have moved out of the way and kept: tails of logs, damaged logs, data directories",
		Subcommands: []*ucli.Command{
			{
				Name: "list", Usage: "list the bundles on this machine", ArgsUsage: " ", Flags: flags, Action: listQuarantine,
				Description: "Reads the disk alone: no daemon needs to run, none is asked, and nothing is changed. A bundle that cannot be\n" +
					"read is listed as damaged, with the reason. What a summary does not say is unknown.\n\n" +
					"Examples:\n" +
					"   tidegate quarantine list\n" +
					"   tidegate quarantine list --data /var/lib/tidegate/standby --data /var/lib/tidegate/warm -o json",
			},
			{
				Name: "show", Usage: "show one bundle, and the commands for the next step", ArgsUsage: "BUNDLE", Flags: flags, Action: showQuarantine,
				Description: "BUNDLE is a name as `tidegate quarantine list` prints it, the end of its path, or its path. Nothing is run or\n" +
					"changed: the commands are for you to look at.\n\n" +
					"Examples:\n" +
					"   tidegate quarantine show 7-diverged\n" +
					"   tidegate quarantine show --data /var/lib/tidegate/agent -o json 7-0000000003000158-0000000003001f40-diverged",
			},
		},
	}
}

// quarantinePlaces lists the directories whose quarantine is this machine's.
func quarantinePlaces(c *ucli.Context) (dirs []string, err error) {
	if named := c.StringSlice("data"); len(named) > 0 {
		return named, nil
	}
	files := 0
	f, there, err := fileOrNone[standbyFile](c, "standby-config")
	if err != nil {
		return nil, err
	}
	if there {
		files++
		dirs = append(dirs, f.DataDir)
		for _, w := range f.Warm {
			s, err := config.ReadSection[apply.Settings](w.Settings)
			if err != nil {
				return nil, err
			}
			dirs = append(dirs, s.Home)
		}
	}
	a, there, err := fileOrNone[agent.Config](c, "agent-config")
	if err != nil {
		return nil, err
	}
	if there {
		files++
		dirs = append(dirs, a.DataDir)
		for _, s := range a.Streams {
			if s.JournalDir != "" {
				dirs = append(dirs, s.JournalDir)
			}
		}
	}
	if files == 0 {
		return nil, &tidegate.Error{
			Op: "look for quarantine", Class: tidegate.Misuse,
			Err:  fmt.Errorf("neither %s nor %s is there: %w", c.String("standby-config"), c.String("agent-config"), tidegate.ErrNotFound),
			Hint: "name a directory: `tidegate quarantine list --data DIR`",
		}
	}
	return dirs, nil
}

// fileOrNone loads a role's file; there is false where it was not named and is not there.
func fileOrNone[F config.Defaulter[F]](c *ucli.Context, flag string) (f F, there bool, err error) {
	f, err = config.Load[F](c.String(flag))
	if errors.Is(err, os.ErrNotExist) && !c.IsSet(flag) {
		return f, false, nil
	}
	return f, err == nil, err
}

// findQuarantine lists what lies in the places, each once. A directory that was
// named must be there; one of a file may be made later.
func findQuarantine(c *ucli.Context) ([]quarantine.Bundle, error) {
	dirs, err := quarantinePlaces(c)
	if err != nil {
		return nil, err
	}
	var all []quarantine.Bundle
	seen := map[string]bool{}
	for _, dir := range dirs {
		found, err := quarantine.Find(dir)
		if errors.Is(err, tidegate.ErrNotFound) && !c.IsSet("data") {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, b := range found {
			if !seen[b.Path] {
				seen[b.Path] = true
				all = append(all, b)
			}
		}
	}
	slices.SortFunc(all, func(a, b quarantine.Bundle) int { return strings.Compare(a.Path, b.Path) })
	return all, nil
}

func listQuarantine(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	found, err := findQuarantine(c)
	if err != nil {
		return err
	}
	views := make([]bundleView, 0, len(found))
	for _, b := range found {
		views = append(views, viewOf(b))
	}
	return cli.Print(c, views, bundleTable(views))
}

func showQuarantine(c *ucli.Context) error {
	args, err := cli.Args(c, "BUNDLE")
	if err != nil {
		return err
	}
	found, err := findQuarantine(c)
	if err != nil {
		return err
	}
	b, err := pickBundle(found, args[0])
	if err != nil {
		return err
	}
	v := viewOf(b)
	return cli.Print(c, v, v.write)
}

// pickBundle finds the one bundle that name says: its path, or how that ends.
func pickBundle(found []quarantine.Bundle, name string) (quarantine.Bundle, error) {
	var fit []quarantine.Bundle
	want := "/" + strings.Trim(filepath.Clean(name), "/")
	for _, b := range found {
		if b.Path == name || strings.HasSuffix(b.Path, want) {
			fit = append(fit, b)
		}
	}
	switch len(fit) {
	case 1:
		return fit[0], nil
	case 0:
		return quarantine.Bundle{}, &tidegate.Error{
			Op: "show bundle", Subject: name, Class: tidegate.Misuse, Err: fmt.Errorf("there is none of this name: %w", tidegate.ErrNotFound),
			Hint: "`tidegate quarantine list` lists them",
		}
	}
	paths := make([]string, 0, len(fit))
	for _, b := range fit {
		paths = append(paths, b.Path)
	}
	return quarantine.Bundle{}, cli.Usagef("bundle %q is one of %d: say which by its path: %s", name, len(fit), strings.Join(paths, ", "))
}
