package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
)

// Exit codes.
const (
	exitFailed  = 1 // it did not work
	exitMisuse  = 2 // flags or configuration are wrong
	exitVerdict = 3 // check: it worked, and the answer is no
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := &cli.App{
		Name: "ledger", Usage: "a replicated money ledger behind Tidegate's gate",
		Writer: stdout, ErrWriter: stderr, HideVersion: true,
		DisableSliceFlagSeparator: true, // a peer has a comma in it

		Commands:       []*cli.Command{nodeCommand(stderr), followCommand(stderr), loadCommand(stdout, stderr), checkCommand(stdout)},
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   usage,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return misuse(fmt.Errorf("unknown command %q", c.Args().First()))
			}
			return cli.ShowAppHelp(c)
		},
	}
	for _, c := range app.Commands {
		c.OnUsageError = usage
		c.HideHelpCommand = true
	}
	err := app.RunContext(ctx, args)
	if err == nil {
		return 0
	}
	// A terminal that is gone takes no message; the exit code still speaks.
	_, _ = fmt.Fprintln(stderr, "ledger:", err)
	if hint := tidegate.HintOf(err); hint != "" {
		_, _ = fmt.Fprintln(stderr, "hint:", hint)
	}
	switch {
	case errors.Is(err, errVerdict):
		return exitVerdict
	case tidegate.ClassOf(err) == tidegate.Misuse:
		return exitMisuse
	}
	return exitFailed
}

func usage(_ *cli.Context, err error, _ bool) error { return misuse(err) }

func misuse(err error) error {
	return &tidegate.Error{Op: "read flags", Class: tidegate.Misuse, Err: err, Hint: "`ledger help` lists the flags"}
}
