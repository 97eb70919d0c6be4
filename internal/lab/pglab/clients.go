package pglab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Clients write one row after the other through the route, each in a transaction
// of its own, and keep a log of the commits that they were told of. Methods may be
// called concurrently.
type Clients struct {
	conn string
	stop context.CancelFunc
	all  sync.WaitGroup

	mu     sync.Mutex
	log    *os.File
	out    *bufio.Writer
	told   map[string]time.Time // "client|n": when
	newest time.Time
	marked time.Time
	first  time.Time // in a session begun since
	pause  time.Duration
	failed error // the newest failure
}

// StartClients starts n clients at a synchronous_commit. Every commit is a line of
// the file at path: client, number, milliseconds since 1970. Stop ends them.
func (l *Lab) StartClients(n int, level, path string) (*Clients, error) {
	return l.startClients(l.routeConn(), n, level, path)
}

// StartStrangers starts clients that know no route: they stay with the primary,
// whatever becomes of it.
func (l *Lab) StartStrangers(n int, level, path string) (*Clients, error) {
	return l.startClients(l.Primary.Conn(), n, level, path)
}

func (l *Lab) startClients(conn string, n int, level, path string) (*Clients, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Clients{
		conn: conn + " options='-c synchronous_commit=" + level + "'",
		stop: cancel, log: f, out: bufio.NewWriter(f), told: map[string]time.Time{},
	}
	for range n {
		id := l.clients // no two clients of a lab write the same rows
		l.clients++
		c.all.Go(func() { c.run(ctx, id) })
	}
	return c, nil
}

// Stop ends the clients and completes their log. It may be called again.
func (c *Clients) Stop() error {
	c.stop()
	c.all.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.log == nil {
		return nil
	}
	err := errors.Join(c.out.Flush(), c.log.Close())
	c.log = nil
	return err
}

func (c *Clients) run(ctx context.Context, client int) {
	for n := 0; ctx.Err() == nil; {
		err := c.session(ctx, client, &n)
		c.mu.Lock()
		c.failed = err
		c.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond): // clients do not storm a server that is away
		}
	}
}

// session writes until something fails. What was not confirmed is never written
// again: nobody knows whether it is there.
func (c *Clients) session(ctx context.Context, client int, n *int) error {
	pg, err := pgconn.Connect(ctx, c.conn)
	if err != nil {
		return err
	}
	defer pg.Close(context.Background()) //nolint:errcheck // it has failed, or the clients end
	begun := time.Now()
	for ctx.Err() == nil {
		*n++
		if _, err := pg.Exec(ctx, fmt.Sprintf("INSERT INTO told VALUES (%d, %d)", client, *n)).ReadAll(); err != nil {
			return err
		}
		c.tell(client, *n, begun)
	}
	return nil
}

func (c *Clients) tell(client, n int, begun time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if !c.newest.IsZero() {
		c.pause = max(c.pause, now.Sub(c.newest))
	}
	c.newest = now
	if c.first.IsZero() && begun.After(c.marked) {
		c.first = now
	}
	c.told[fmt.Sprintf("%d|%d", client, n)] = now
	fmt.Fprintf(c.out, "%d %d %d\n", client, n, now.UnixMilli()) // an error comes back at the end
}

// Told is how many commits the clients were told of so far.
func (c *Clients) Told() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.told)
}

// Mark forgets the first commit and the longest pause: First is the first from
// then on in a session that began later, Pause what ends later.
func (c *Clients) Mark() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.marked, c.first, c.pause = time.Now(), time.Time{}, 0
}

// First is when the clients were told of the first commit since Mark; the zero
// time before.
func (c *Clients) First() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.first
}

// Pause is the longest time between two commits since Mark, of all clients together.
func (c *Clients) Pause() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pause
}

// Quiet waits until the clients have been told nothing for a while.
func (l *Lab) Quiet(ctx context.Context, c *Clients, span time.Duration) error {
	return l.Until(ctx, "clients to be told nothing", func(context.Context) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if age := time.Since(c.newest); age < span {
			return fmt.Errorf("the newest confirmation is %s old", age)
		}
		return nil
	})
}

// More waits until the clients were told of n more commits.
func (l *Lab) More(ctx context.Context, c *Clients, n int) error {
	had := c.Told()
	return l.Until(ctx, fmt.Sprintf("%d more commits", n), func(context.Context) error {
		if got := c.Told() - had; got < n {
			c.mu.Lock()
			defer c.mu.Unlock()
			return errors.Join(fmt.Errorf("%d commits confirmed", got), c.failed)
		}
		return nil
	})
}
