package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket/open"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/internal/cli"
)

func drillCommand() *ucli.Command {
	return &ucli.Command{
		Name: "drill", Usage: "rehearsed recoveries: their evidence, and its proof",
		Subcommands: []*ucli.Command{
			drillPlanCommand(),
			drillRunCommand(),
			drillListCommand(),
			drillShowCommand(),
			drillHistoryCommand(),
			drillMatrixCommand(),
			drillVerifyCommand(),
			drillRecordCommand(),
			drillScheduleCommand(),
			drillStatusCommand(),
			drillAbortCommand(),
			drillWorkerCommand(),
			drillKeyCommand(),
		},
	}
}

// evidenceFlags are those of every command that reads evidence.
func evidenceFlags(more ...ucli.Flag) []ucli.Flag {
	return append([]ucli.Flag{
		cli.OutputFlag(),
		&ucli.StringFlag{Name: "archive", Usage: "`FILE` with the address of the archive that has the evidence: a block of its own, or the block archive of any role's file"},
		&ucli.StringFlag{Name: "url", Usage: "`URL` of that archive, as in file:///srv/archive or s3://bucket/prefix, where nothing more need be said"},
		&ucli.StringFlag{Name: "service", Usage: "`SERVICE`, where an archive is read", DefaultText: "all"},
	}, more...)
}

func keyFlag() ucli.Flag {
	return &ucli.StringSliceFlag{Name: "key", Usage: "public key in `FILE` that signatures are checked with; may be said more than once"}
}

// evidenceRead is what a command was told to read.
type evidenceRead struct {
	files []evidence.File
	whole bool // chains begin with their first report: a directory or an archive, and not some files
}

// readEvidence reads the files and directories that are named, or the archive that the
// flags name; there of each service the newest last, or all where last is 0.
func readEvidence(c *ucli.Context, last int) (evidenceRead, error) {
	inArchive := c.String("archive") != "" || c.String("url") != ""
	switch {
	case inArchive && c.NArg() > 0:
		return evidenceRead{}, cli.Usagef("evidence lies in files or in an archive: name one of the two")
	case inArchive:
		files, err := readStore(c, last)
		return evidenceRead{files, last == 0}, err
	case c.NArg() == 0:
		return evidenceRead{}, cli.Usagef("which evidence? name files or directories, or --url URL, or --archive FILE")
	case c.String("service") != "":
		return evidenceRead{}, cli.Usagef("--service is for archives; of a directory, name the service's own")
	}
	var out evidenceRead
	for _, name := range c.Args().Slice() {
		files, dir, err := readPath(name)
		if err != nil {
			return out, &tidegate.Error{Op: "read evidence", Subject: name, Class: tidegate.Misuse, Err: err}
		}
		out.files, out.whole = append(out.files, files...), out.whole || dir
	}
	if len(out.files) == 0 {
		return out, noEvidence(strings.Join(c.Args().Slice(), ", "))
	}
	return out, nil
}

func noEvidence(where string) error {
	return &tidegate.Error{
		Op: "find evidence", Subject: where, Class: tidegate.Permanent, Err: fmt.Errorf("there are no reports of drills: %w", tidegate.ErrNotFound),
		Hint: "reports are named as 0000000001.dsse.json, in an archive below drills/SERVICE",
	}
}

// readPath reads a file, or every report below a directory, in the order of their names.
func readPath(name string) (files []evidence.File, dir bool, err error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, false, err
	}
	if !info.IsDir() {
		data, err := os.ReadFile(name)
		return []evidence.File{{Name: name, Data: data}}, false, err
	}
	err = filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, archive.DrillSuffix) {
			return err
		}
		data, err := os.ReadFile(path)
		files = append(files, evidence.File{Name: path, Data: data})
		return err
	})
	return files, true, err
}

// readStore reads reports out of the archive that the flags name.
func readStore(c *ucli.Context, last int) (files []evidence.File, err error) {
	store, err := openEvidence(c)
	if err != nil {
		return nil, err
	}
	service := tidegate.ServiceName(c.String("service"))
	names, err := store.Names(c.Context, service, last)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		where := store.String()
		if service != "" {
			where = fmt.Sprintf("%s in %s", service, where)
		}
		return nil, noEvidence(where)
	}
	var done atomic.Int64
	line := func(elapsed time.Duration) string {
		return countLine(done.Load(), int64(len(names)), "reports", elapsed)
	}
	err = withLines(c, "read evidence", line, func(ctx context.Context) error {
		for _, name := range names {
			f, err := store.Read(ctx, name)
			if err != nil {
				return err
			}
			files = append(files, f)
			done.Add(1)
		}
		return nil
	})
	return files, err
}

// countLine is [progressLine] for things that are counted.
func countLine(done, total int64, what string, elapsed time.Duration) string {
	line := fmt.Sprintf("%d of %d %s", done, total, what)
	if rate := float64(done) / elapsed.Seconds(); rate > 0 {
		left := time.Duration(float64(total-done) / rate * float64(time.Second))
		line += fmt.Sprintf(", %.0f/s, about %s left", rate, left.Round(time.Second))
	}
	return line
}

// openEvidence opens the evidence in the archive that the flags name.
func openEvidence(c *ucli.Context) (*evidence.Store, error) {
	if name := c.String("service"); name != "" {
		if err := tidegate.ValidName(name); err != nil {
			return nil, cli.Usagef("--service: %w", err)
		}
	}
	block, err := archiveBlock(c)
	if err != nil {
		return nil, err
	}
	b, err := open.Open(c.Context, block.Config)
	if err != nil {
		return nil, err
	}
	return evidence.NewStore(b), nil
}

// trustedKeys reads the keys of --key.
func trustedKeys(c *ucli.Context) (keys []evidence.PublicKey, err error) {
	var wrong []error
	for _, path := range c.StringSlice("key") {
		k, err := evidence.LoadPublicKey(path)
		keys, wrong = append(keys, k), append(wrong, err)
	}
	return keys, errors.Join(wrong...)
}
