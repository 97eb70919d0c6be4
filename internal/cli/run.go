package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
)

// Run executes app with args (args[0] is the program) and returns the exit
// code. It prints the error, if any, and its hint on stderr. It never exits.
func Run(ctx context.Context, app *cli.App, args []string, stdin io.Reader, stdout, stderr io.Writer) Code {
	app.Reader, app.Writer, app.ErrWriter = stdin, stdout, stderr
	app.Version = Version()
	app.HideHelpCommand = true
	app.ExitErrHandler = func(*cli.Context, error) {} // the default calls os.Exit
	app.OnUsageError = usageError
	if app.Action == nil {
		app.Action = subcommandWanted
	}
	for _, cmd := range app.Commands {
		prepare(cmd)
	}
	err := app.RunContext(ctx, reorder(app, args))
	code := CodeOf(err)
	var silent *silentError
	if err != nil && !errors.As(err, &silent) {
		printError(stderr, app.Name, err)
	}
	return code
}

func printError(w io.Writer, program string, err error) {
	fmt.Fprintf(w, "%s: %v\n", program, err)
	if hint := tidegate.HintOf(err); hint != "" {
		fmt.Fprintf(w, "hint: %s\n", hint)
	} else if CodeOf(err) == Usage && tidegate.ClassOf(err) != tidegate.Misuse {
		fmt.Fprintf(w, "hint: `%s --help` lists commands and flags\n", program)
	}
}

// prepare gives every command the same behaviour on wrong arguments; the
// library has it per command and prints whole help texts.
func prepare(cmd *cli.Command) {
	cmd.OnUsageError = usageError
	cmd.HideHelpCommand = true
	if cmd.Action == nil {
		cmd.Action = subcommandWanted
	}
	for _, sub := range cmd.Subcommands {
		prepare(sub)
	}
}

func usageError(_ *cli.Context, err error, _ bool) error { return WithCode(Usage, err) }

// subcommandWanted is the action of a command that only groups others.
func subcommandWanted(c *cli.Context) error {
	if name := c.Args().First(); name != "" {
		return Usagef("unknown command %q", name)
	}
	if c.Command.HasName(c.App.Name) || c.Command.Name == "" {
		return cli.ShowAppHelp(c)
	}
	return cli.ShowSubcommandHelp(c)
}

// Args returns exactly the positional arguments that names lists.
func Args(c *cli.Context, names ...string) ([]string, error) {
	got := c.Args().Slice()
	if len(got) > len(names) {
		return nil, Usagef("unexpected argument %q", got[len(names)])
	}
	if len(got) < len(names) {
		return nil, Usagef("missing argument <%s>", names[len(got)])
	}
	return got, nil
}

// reorder moves the flags of the chosen command in front of its positional
// arguments: the flag package stops at the first argument that is not a flag,
// and `failover ledger --dry-run` must never be read as `failover ledger`.
func reorder(app *cli.App, args []string) []string {
	if len(args) == 0 {
		return args
	}
	out, rest := []string{args[0]}, args[1:]
	commands, flags := app.Commands, app.Flags
	var positional []string
	for len(rest) > 0 {
		arg := rest[0]
		if arg == "--" {
			positional = append(positional, rest...)
			break
		}
		if strings.HasPrefix(arg, "-") && arg != "-" {
			n := min(1+flagValues(flags, arg), len(rest))
			out, rest = append(out, rest[:n]...), rest[n:]
			continue
		}
		rest = rest[1:]
		if cmd := commandNamed(commands, arg); cmd != nil && len(positional) == 0 {
			out, commands, flags = append(out, arg), cmd.Subcommands, cmd.Flags
			continue
		}
		if len(commands) > 0 && len(positional) == 0 {
			// No such command, so nobody knows its flags: it is the word that is reported.
			return append(append(out, arg), rest...)
		}
		positional = append(positional, arg)
	}
	return append(out, positional...)
}

func commandNamed(commands []*cli.Command, name string) *cli.Command {
	if i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(name) }); i >= 0 {
		return commands[i]
	}
	return nil
}

// flagValues is how many arguments follow the flag arg as its value. An unknown
// flag has none; the library reports it.
func flagValues(flags []cli.Flag, arg string) int {
	if strings.Contains(arg, "=") {
		return 0
	}
	name := strings.TrimLeft(arg, "-")
	for _, f := range flags {
		if !slices.Contains(f.Names(), name) {
			continue
		}
		if doc, ok := f.(cli.DocGenerationFlag); ok && doc.TakesValue() {
			return 1
		}
	}
	return 0
}
