package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/client"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
)

// errVerdict is the check's no.
var errVerdict = errors.New("check failed")

func httpClient(conns int) *http.Client {
	return &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: conns,
		// A primary that is frozen still has its connections accepted by the kernel.
		ResponseHeaderTimeout: time.Minute,
	}}
}

func loadCommand(stdout, stderr io.Writer) *cli.Command {
	return &cli.Command{
		Name: "load", Usage: "transfer money until told to stop, and write down what was acknowledged",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "url", Usage: "required: `URL` of the route or of any node"},
			&cli.StringFlag{Name: "acked", Usage: "required: `FILE` to append acknowledged transfers to"},
			&cli.IntFlag{Name: "workers", DefaultText: "16", Usage: "transfers in flight"},
			&cli.IntFlag{Name: "accounts", DefaultText: "200", Usage: "accounts per currency"},
			&cli.Uint64Flag{Name: "fund", DefaultText: "1000000", Usage: "cents in each account to begin with"},
			&cli.Uint64Flag{Name: "amount-max", DefaultText: "100", Usage: "cents moved at a time, at most"},
			&cli.Uint64Flag{Name: "transfers", DefaultText: "never", Usage: "end after so many"},
			&cli.DurationFlag{Name: "duration", DefaultText: "never", Usage: "end after so long"},
			&cli.DurationFlag{Name: "try-timeout", DefaultText: "2s", Usage: "one HTTP exchange, then the same request again"},
			&cli.DurationFlag{Name: "progress", DefaultText: "1s", Usage: "between progress lines"},
			&cli.StringFlag{Name: "durability", DefaultText: "the stream's", Usage: "asked for each transfer: `MODE` open, bounded or sync"},
			&cli.Uint64Flag{Name: "seed", Usage: "of amounts and accounts"},
			&cli.BoolFlag{Name: "json", Usage: "print the counts as JSON at the end, progress to stderr"},
			&cli.StringFlag{Name: "log-level", Value: "info", Usage: "`LEVEL`: debug, info, warn or error"},
		},
		Action: func(c *cli.Context) error {
			log, err := logger(c, stderr)
			if err != nil {
				return err
			}
			cfg := client.LoadConfig{
				URL: c.String("url"), AckedPath: c.String("acked"), Workers: c.Int("workers"), Accounts: c.Int("accounts"),
				Fund: ledger.Amount(c.Uint64("fund")), AmountMax: ledger.Amount(c.Uint64("amount-max")),
				Transfers: c.Uint64("transfers"), Duration: c.Duration("duration"), TryTimeout: c.Duration("try-timeout"),
				Progress: c.Duration("progress"), Seed: c.Uint64("seed"), Durability: tidegate.Mode(c.String("durability")),
			}
			out := stdout
			if c.Bool("json") {
				out = stderr
			}
			hc := httpClient(cfg.SetDefaults().Workers)
			defer hc.CloseIdleConnections()
			l, err := client.NewLoad(log, hc, out, cfg)
			if err != nil {
				return err
			}
			err = l.Run(c.Context)
			if c.Bool("json") {
				err = errors.Join(err, json.NewEncoder(stdout).Encode(l.Counts()))
			}
			return err
		},
	}
}

func checkCommand(stdout io.Writer) *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "compare what was acknowledged with what a node holds",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "url", Usage: "required: `URL` of the node that serves now"},
			&cli.StringFlag{Name: "acked", Usage: "required: `FILE` that `ledger load` wrote"},
			&cli.Uint64Flag{Name: "lost-max", Usage: "acknowledged transfers that may be lost without a no"},
			&cli.DurationFlag{Name: "within", DefaultText: "30s", Usage: "how long the target may take to answer"},
			&cli.BoolFlag{Name: "json", Usage: "print the report as JSON"},
		},
		Action: func(c *cli.Context) error {
			hc := httpClient(1)
			defer hc.CloseIdleConnections()
			rep, err := client.Check(c.Context, hc, client.CheckConfig{
				URL: c.String("url"), AckedPath: c.String("acked"), Within: c.Duration("within"),
			})
			if err != nil {
				return err
			}
			if c.Bool("json") {
				if err := json.NewEncoder(stdout).Encode(rep); err != nil {
					return fmt.Errorf("print report: %w", err)
				}
			} else if err := rep.Print(stdout); err != nil {
				return fmt.Errorf("print report: %w", err)
			}
			if rep.Lost > c.Uint64("lost-max") || !rep.Sound {
				return fmt.Errorf("%w: %d lost, %d moved, %d doubled, books sound: %t", errVerdict, rep.Lost, rep.Moved, rep.Doubled, rep.Sound)
			}
			return nil
		},
	}
}
