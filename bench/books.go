package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/tidegate/tidegate/examples/ledger/api"
	"github.com/tidegate/tidegate/examples/ledger/book"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/internal/lab"
)

// books are the example's ledger: this process writes the journal of one book at the
// primary site, and a real ledger follows beside the standby node.
type books struct {
	*stack
	accounts int
	sent     int      // commands so far
	ids      []string // of the streams
	ledger   string   // URL of the one that follows
}

// streamOf is the stream of one book, which begins with what first gives.
func streamOf(c ledger.Currency, first func() ([]byte, error)) stream {
	return stream{name: c.String(), id: book.HistoryID(lab.Service, c), first: first}
}

// keepBases has the standby node make a base when it is asked, and remove nothing: that
// would fall into any turn.
func keepBases(name string, file map[string]any) {
	if name == snapshotNode+"/standby.yaml" {
		file["base"] = map[string]any{"refresh": map[string]any{"off": true}, "trim": map[string]any{"off": true}}
	}
}

// longName makes states large: of a ledger's accounts there are a million at most.
func longName(i int) ledger.AccountID { return ledger.AccountID(fmt.Sprintf("a%060d", i)) }

// next is the next command of the history.
func (b *books) next() ([]byte, error) {
	c := commandOf(b.sent, b.accounts, longName)
	b.sent++
	return c.Append(nil)
}

// follow starts the ledger beside the node, and returns once that knows so many streams.
func (b *books) follow(ctx context.Context, streams int) error {
	var addrs [2]string // of HTTP, and of raft
	for i := range addrs {
		var err error
		if addrs[i], err = lab.FreeAddr(); err != nil {
			return err
		}
	}
	b.ledger = "http://" + addrs[0]
	err := b.lab.StartProc("ledger-"+snapshotNode, lab.SiteDR, b.lab.Bin("ledger"), "follow", "--name", snapshotNode,
		"--data", b.lab.File(snapshotNode, "ledger"), "--http", addrs[0], "--service", lab.Service, "--run", b.lab.RunDir(snapshotNode), "--raft", addrs[1])
	if err != nil {
		return err
	}
	return b.lab.Until(ctx, "the node to be told of the streams", func(context.Context) error {
		found, err := filepath.Glob(filepath.Join(b.lab.StandbyDir(snapshotNode), "streams", "*", "base"))
		if err == nil && len(found) != streams {
			err = fmt.Errorf("%d stores of bases", len(found))
		}
		b.ids = nil
		for _, dir := range found {
			b.ids = append(b.ids, filepath.Base(filepath.Dir(dir)))
		}
		return err
	})
}

// fill appends n commands without waiting for each, and waits until all are released.
func (b *books) fill(ctx context.Context, n int) error {
	for range n {
		rec, err := b.next()
		if err != nil {
			return err
		}
		if _, err := b.j.Submit(ctx, rec, time.Now()); err != nil {
			return err
		}
	}
	if err := b.await(ctx, b.j.End()); err != nil {
		return err
	}
	return b.followed(ctx)
}

// followed waits until the ledger beside the node has everything.
func (b *books) followed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, snapshotWait)
	defer cancel()
	end := b.j.End()
	return b.lab.Until(ctx, "the ledger to follow to "+end.String(), func(ctx context.Context) error {
		var st api.Status
		if err := lab.GetJSON(ctx, b.ledger+api.PathStatus, &st); err != nil {
			return err
		}
		for _, x := range st.Streams {
			if x.Currency.String() == b.stream.name && x.Applied >= end {
				return nil
			}
		}
		return errors.New("it does not yet")
	})
}

// refresh has the node take a base of the warm service, as fast as its rate says.
func (b *books) refresh(ctx context.Context) error {
	for _, id := range b.ids {
		if _, err := b.lab.Command(ctx, b.lab.Bin("tidegate"), "standby", "base", "refresh", "--config", b.lab.File(snapshotNode, "standby.yaml"), "--wait", id); err != nil {
			return err
		}
	}
	return nil
}
