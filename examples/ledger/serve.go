package main

import (
	"io"
	"log/slog"

	"github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/cluster"
	"github.com/tidegate/tidegate/examples/ledger/node"
)

func logger(c *cli.Context, w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.String("log-level"))); err != nil {
		return nil, misuse(err)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})), nil
}

// serveFlags are those that both roles have.
func serveFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "name", Usage: "required: `NAME` of this node"},
		&cli.StringFlag{Name: "data", Usage: "required: `FOLDER` of the journals and raft's log"},
		&cli.StringFlag{Name: "http", Usage: "required: `HOST:PORT` to answer on"},
		&cli.StringFlag{Name: "service", Value: "ledger", Usage: "`NAME` of the service: its streams are eur and usd"},
		&cli.StringFlag{Name: "history", DefaultText: "the service's", Usage: "`NAME` of the history, the same on every node of every site"},
		&cli.StringFlag{Name: "run", Usage: "`FOLDER` of the daemons on this machine: <run>/agent and <run>/standby hold their sockets"},
		&cli.DurationFlag{Name: "heartbeat", DefaultText: "1s, 50ms alone", Usage: "how long raft waits for a leader"},
		&cli.Uint64Flag{Name: "snapshot-entries", DefaultText: "65536", Usage: "raft entries between snapshots"},
		&cli.IntFlag{Name: "receipts", Usage: "keep the newest `N` receipts of each book in memory, for GET /receipts"},
		&cli.StringFlag{Name: "log-level", Value: "info", Usage: "`LEVEL`: debug, info, warn or error"},
	}
}

func serveConfig(c *cli.Context) node.Config {
	return node.Config{
		Name: tidegate.NodeName(c.String("name")), Service: tidegate.ServiceName(c.String("service")),
		History: c.String("history"), Dir: c.String("data"), HTTP: c.String("http"),
		RunDir: c.String("run"), Receipts: c.Int("receipts"),
		Cluster: cluster.Config{Heartbeat: c.Duration("heartbeat"), SnapshotEntries: c.Uint64("snapshot-entries")},
	}
}

func serve(c *cli.Context, stderr io.Writer, cfg node.Config) error {
	log, err := logger(c, stderr)
	if err != nil {
		return err
	}
	n, err := node.New(log, cfg)
	if err != nil {
		return err
	}
	return n.Run(c.Context)
}

func nodeCommand(stderr io.Writer) *cli.Command {
	return &cli.Command{
		Name: "node", Usage: "take part in the primary site's raft cluster",
		Flags: append(serveFlags(), &cli.StringSliceFlag{
			Name: "peer", Usage: "required: `NAME=RAFT-HOST:PORT,HTTP-HOST:PORT` of every node, this one included",
		}, &cli.BoolFlag{
			Name: "return", Usage: "a standby node's daemon runs here, too: follow through it while another site serves",
		}),
		Action: func(c *cli.Context) error {
			cfg := serveConfig(c)
			cfg.Return = c.Bool("return")
			for _, s := range c.StringSlice("peer") {
				p, err := node.ParsePeer(s)
				if err != nil {
					return misuse(err)
				}
				cfg.Peers = append(cfg.Peers, p)
			}
			return serve(c, stderr, cfg)
		},
	}
}

func followCommand(stderr io.Writer) *cli.Command {
	return &cli.Command{
		Name: "follow", Usage: "follow at the DR site, and serve after a failover",
		Flags: append(serveFlags(),
			&cli.StringFlag{Name: "raft", Usage: "required: `HOST:PORT` of raft once this node is promoted"},
			&cli.StringFlag{Name: "advertise", DefaultText: "that of --http", Usage: "`HOST:PORT` that clients and the route reach"},
		),
		Action: func(c *cli.Context) error {
			cfg := serveConfig(c)
			cfg.Follow = true
			at := c.String("advertise")
			if at == "" {
				at = cfg.HTTP
			}
			cfg.Peers = []cluster.Peer{{Node: cfg.Name, Raft: c.String("raft"), HTTP: "http://" + at}}
			return serve(c, stderr, cfg)
		},
	}
}
