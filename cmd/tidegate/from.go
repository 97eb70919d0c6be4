package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"connectrpc.com/connect"
	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/live"
	cold "github.com/tidegate/tidegate/archive/restore"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/pki"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/snapshot"
)

// fromFlags are those of the commands that read an archive or a node of the standby
// cluster.
func fromFlags(more ...ucli.Flag) []ucli.Flag {
	return archiveFlags(operatorFlags(append([]ucli.Flag{
		&ucli.StringFlag{Name: "from", Usage: "`HOST:PORT` of the API of a standby node, in place of an archive; with an operator's certificate"},
	}, more...)...)...)
}

// openStream opens the one stream that --service names, out of the archive or the node
// that the flags name. A node's newest base is fetched into stage first; not where that
// is empty.
func openStream(c *ucli.Context, stage string) (s *archive.Stream, kind storeKind, err error) {
	if c.String("from") == "" {
		r, err := openArchive(c)
		if err != nil {
			return nil, kind, err
		}
		return archivedStream(c, r)
	}
	if c.String("archive")+c.String("url") != "" {
		return nil, kind, cli.Usagef("a stream is read from one place: --from, --archive or --url")
	}
	node, err := openNode(c, stage)
	if err != nil {
		return nil, kind, err
	}
	r, err := archive.OpenReader(c.Context, node)
	if err != nil {
		return nil, kind, err
	}
	err = withProgress(c, "look at "+node.String(), node.Progress, func(context.Context) error {
		s, kind, err = archivedStream(c, r)
		return err
	})
	if r, refused := errors.AsType[*shipper.Refusal](err); refused && r.Code == shipper.CodeRole {
		err = cli.WithCode(cli.Auth, err)
	}
	return s, kind, err
}

// openNode asks a node what it has.
func openNode(c *ucli.Context, stage string) (*live.Bucket, error) {
	file, err := config.Load[operatorFile](roleFile(c))
	if err != nil {
		return nil, err
	}
	creds, err := pki.Load(file.TLS.Cert, file.TLS.Key, file.TLS.CA)
	if err != nil {
		return nil, err
	}
	addr := c.String("from")
	if err := config.Reachable("--from", addr); err != nil {
		return nil, cli.Usagef("%w", err)
	}
	tls := creds.ClientTLS(pki.Expect{Role: tidegate.RoleStandby})
	said, err := tidegatev1connect.NewStandbyServiceClient(api.NewHTTPClient(tls), "https://"+addr).Describe(c.Context, connect.NewRequest(&pb.DescribeRequest{}))
	if err != nil {
		return nil, cli.Remote("ask node", addr, err)
	}
	var streams []archive.StreamInfo
	for _, d := range said.Msg.GetStreams() {
		id, err := tidegate.ParseID(d.GetStreamId())
		if err != nil {
			return nil, fmt.Errorf("node %s: stream %q: %w", addr, d.GetStreamId(), err)
		}
		if d.GetName() == "" {
			continue // the gate has not said what it is
		}
		streams = append(streams, archive.StreamInfo{
			Stream: id, Service: tidegate.ServiceName(d.GetService()), Name: tidegate.StreamName(d.GetName()), Store: d.GetStore(),
		})
	}
	return live.New(live.Config{
		Dialer: shipper.Dialer{TLS: tls, Clock: clock.System()}, Addr: said.Msg.GetShipAddress(), Node: tidegate.NodeName(said.Msg.GetNode()),
		Streams: streams, FS: vfs.OS(), Stage: stage,
	}), nil
}

// stageOf is where the base of a restore from a node lies until that has come to its
// end; empty where there is none.
func stageOf(c *ucli.Context, target cold.Target) (string, error) {
	if c.String("from") == "" || c.Bool("dry-run") {
		return "", nil
	}
	stage := target.Dir + ".base"
	if err := target.Begun(); err != nil {
		return stage, err
	}
	return stage, checkStage(target.FS, stage)
}

// checkStage refuses a directory that has anything but what fetches have left.
func checkStage(fsys vfs.FS, stage string) error {
	parts, err := fsys.List(stage)
	if errors.Is(err, tidegate.ErrNotFound) {
		return nil
	}
	no := func(path string) error {
		return &tidegate.Error{
			Op: "fetch a base into", Subject: stage, Class: tidegate.Refused, Err: fmt.Errorf("it has %s, which no restore has left", path),
			Hint: "the base is fetched into a directory beside that of --into: name another one; nothing in this one is touched",
		}
	}
	for _, part := range parts {
		dir := filepath.Join(stage, part)
		if _, err := tidegate.ParseID(part); err != nil {
			return no(dir)
		}
		files, err := fsys.List(dir)
		if err != nil {
			return err
		}
		for _, file := range files {
			if !slices.Contains(snapshot.StoreNames(), file) {
				return no(filepath.Join(dir, file))
			}
		}
	}
	return err
}

// unstage removes a stream's base that was fetched, once it has been restored.
func unstage(stage string, id tidegate.StreamID) error {
	if stage == "" {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(stage, id.String())); err != nil {
		return err
	}
	err := os.Remove(stage)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTEMPTY) { // another restore's is there
		return nil
	}
	return err
}
