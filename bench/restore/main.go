package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate/bench/figure"
	"github.com/tidegate/tidegate/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := &ucli.App{
		Name: "restore", Usage: "measure bases and restores beside pgBackRest and the disk",
		HideVersion: true,
		Flags: []ucli.Flag{
			&ucli.StringFlag{Name: "bin", Required: true, Usage: "`FOLDER` of the binaries"},
			&ucli.StringFlag{Name: "size", Value: "2G", Usage: "about `BYTES` of tables: 200M, 2G"},
			&ucli.IntFlag{Name: "rounds", Value: 5, Usage: "`NUMBER` of restores of each kind"},
			&ucli.StringFlag{Name: "profile", Usage: "write a processor profile of the first restore of ours to this `FILE`"},
		},
		Action: func(c *ucli.Context) error { return measure(c.Context, stdout, c) },
	}
	return int(cli.Run(ctx, app, args, os.Stdin, stdout, stderr))
}

// patience bounds a run.
const patience = 2 * time.Hour

// sizeMin is of a database of which 1 % can be told from what changes by itself.
const sizeMin = 64 << 20

func measure(ctx context.Context, out io.Writer, c *ucli.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	size, err := figure.ParseBytes(c.String("size"))
	if err != nil {
		return fmt.Errorf("--size: %w", err)
	}
	bin, err := filepath.Abs(c.String("bin"))
	if err != nil {
		return err
	}
	if size < sizeMin || c.Int("rounds") < 1 {
		return fmt.Errorf("want --size of %d MiB at least, and a round", sizeMin>>20)
	}
	if err := room(os.TempDir(), size); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("/tmp", "tidegate-restore-") // a socket's path must fit into 107 bytes
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			err = os.RemoveAll(dir)
			return
		}
		err = errors.Join(err, keepLogs(dir))
		fmt.Fprintf(out, "logs are left in %s\n", dir)
	}()
	machine := figure.Machine(dir)
	fmt.Fprintln(out, machine)
	r := &rig{
		dir: dir, bin: bin, size: size, rounds: c.Int("rounds"), profile: c.String("profile"),
		say: func(format string, args ...any) {
			fmt.Fprintf(out, "%s  %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
		},
	}
	report, err := r.measure(ctx)
	err = errors.Join(err, r.close())
	if err != nil {
		return err
	}
	report.machine = machine
	return report.print(out)
}

// keepLogs removes what a run that failed has left, but for what its daemons have said.
func keepLogs(dir string) (err error) {
	for _, name := range []string{archiveDir, chunksDir, limitDir, labDir + "/d1", labDir + "/p1"} {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, name)))
	}
	return err
}

// room refuses a disk that would not do: there are the primary, its log, the warm server,
// the node's bases, the archive, two repositories, the chunks and what is restored.
func room(dir string, size int64) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return err
	}
	free, want := int64(st.Bavail)*st.Bsize, 9*size+(4<<30)
	if free < want {
		return fmt.Errorf("%s has %d MiB free: want %d; give a smaller SIZE", dir, free>>20, want>>20)
	}
	return nil
}
