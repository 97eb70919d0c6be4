package pglab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/pgrun"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores/postgres/server"
)

// Stream is the one stream of a lab; its service is [lab.Service].
const Stream = "main"

// Config says what stands in a lab.
type Config struct {
	Dir, Bin string            // as in [lab.Plant]; PostgreSQL's account must be able to enter what is above Dir
	Scale    int               // of pgbench's tables; a scale of 1 is 100,000 accounts, 15 MB
	Replica  bool              // an ordinary physical replica at the primary site
	NoTwin   bool              // no copy of the primary from before the load: nothing can be judged by Judge and Recover
	Cluster  bool              // the replica has an agent of its own, and may be promoted
	Returns  bool              // a standby daemon beside the primary, which takes it over once the stream has left it
	Feedback bool              // reads on the warm server hold back cleaning up on the primary (hot_standby_feedback)
	Settings map[string]string // more of the primary's postgresql.conf
	Standbys int               // nodes of the other site; default 3
	// Tune, unless nil, may change a configuration file after the lab has; see [lab.Plant].
	Tune func(name string, file map[string]any)
}

// Lab is a whole Tidegate around a PostgreSQL server on this machine.
type Lab struct {
	*lab.Lab
	Primary *pgrun.Server
	Replica *pgrun.Server // nil when not asked for

	cfg      Config
	copy     *pgrun.Server // of the primary, before the load; not started; nil with NoTwin
	home     string        // of the warm server
	endpoint string        // where the warm server takes clients once it is promoted
	warm     *server.Server
	old      *server.Server // the primary as the standby daemon beside it runs it; nil when none does
	clients  int            // that were started so far
}

// New starts the primary site's servers with pgbench's tables, copies the primary,
// and lays out the rest in cfg.Dir. Beside an error nothing runs.
func New(ctx context.Context, cfg Config) (*Lab, error) {
	l := &Lab{cfg: cfg}
	if err := l.build(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// schema is what the primary has beside pgbench's tables: the agent's role with the
// rights of docs/operating/postgresql.md, what clients write, and what pg_amcheck wants.
const schema = `CREATE ROLE tidegate LOGIN REPLICATION; GRANT pg_monitor TO tidegate;
	GRANT ALTER SYSTEM ON PARAMETER synchronous_standby_names TO tidegate; GRANT EXECUTE ON FUNCTION pg_reload_conf TO tidegate;
	CREATE TABLE told (client int, n int, PRIMARY KEY (client, n));
	CREATE EXTENSION amcheck`

func (l *Lab) build(ctx context.Context) (err error) {
	// The log since the copy must still be there when the primary has been killed, and
	// pg_rewind wants hints in it.
	settings := map[string]string{"fsync": "on", "wal_keep_size": "4GB", "wal_log_hints": "on"}
	maps.Copy(settings, l.cfg.Settings)
	if l.Primary, err = pgrun.New(pgrun.Config{Settings: settings}); err != nil {
		return err
	}
	if _, err := l.Primary.Query(ctx, schema+"; "+probeSchema); err != nil {
		return err
	}
	if err := l.Primary.BenchInit(l.cfg.Scale); err != nil {
		return err
	}
	place := l.Primary.Dir // that the account may enter
	if !l.cfg.NoTwin {
		if l.copy, err = l.Primary.Copy("-copy", pgrun.Config{}); err != nil {
			return err
		}
		place = l.copy.Dir
	}
	if l.cfg.Replica || l.cfg.Cluster {
		if l.Replica, err = l.Primary.Replica(pgrun.Config{}); err != nil {
			return err
		}
	}
	if l.endpoint, err = lab.FreeAddr(); err != nil {
		return err
	}
	l.home = filepath.Join(place, "warm") // it goes when its server does
	if l.warm, err = l.handle(server.Config{Home: l.home}); err != nil {
		return err
	}
	if l.cfg.Returns {
		if l.old, err = l.handle(server.Config{Home: l.oldHome(), Data: l.Primary.DataDir}); err != nil {
			return err
		}
	}
	l.Lab, err = lab.New(lab.Plant{
		Dir: l.cfg.Dir, Bin: l.cfg.Bin,
		Primaries: l.machines(), Standbys: l.cfg.Standbys, Agents: 1, NoService: true, Streams: []string{Stream}, Store: "postgres", Mode: tidegate.ModeOpen,
		Returns: l.cfg.Returns, Tune: l.tune, Probe: l.probeSection,
	})
	if err != nil {
		return err
	}
	if err := l.writePassfile(); err != nil {
		return err
	}
	// The servers' account passes through these to the socket that it is fed by.
	for _, dir := range []string{l.cfg.Dir, l.File("d1"), l.RunDir("d1"), l.File("p1"), l.RunDir("p1")} {
		if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // nothing else is in there to be kept from others
			return err
		}
	}
	return nil
}

// machines is how many the primary site has.
func (l *Lab) machines() int {
	if l.cfg.Cluster {
		return 2
	}
	return 1
}

// tune writes the store's part of the configuration files.
func (l *Lab) tune(name string, file map[string]any) {
	defer func() {
		if l.cfg.Tune != nil {
			l.cfg.Tune(name, file)
		}
	}()
	stream := func(endpoint, conn, slot string) []map[string]any {
		return []map[string]any{{
			"service": lab.Service, "stream": Stream, "source": "postgres", "endpoint": endpoint,
			"settings": map[string]any{
				"conn": conn + " user=tidegate dbname=postgres sslmode=disable", "slot": slot, "set_names": true,
				"hot_standby_feedback": l.cfg.Feedback,
			},
		}}
	}
	host, port := l.listen()
	switch name {
	case "p1/agent.yaml":
		file["streams"] = stream(fmt.Sprintf("%s:%d", l.Primary.Host, pgrun.Port), "host="+l.Primary.SocketDir, "tidegate")
	case "p2/agent.yaml":
		file["streams"] = stream(fmt.Sprintf("%s:%d", l.Replica.Host, pgrun.Port), "host="+l.Replica.SocketDir, "tidegate")
	case "d1/agent.yaml":
		file["streams"] = stream(l.endpoint, fmt.Sprintf("host=%s port=%d", l.warm.SocketDir(), port), "back")
	case "d1/standby.yaml":
		file["warm"] = l.warmSection(l.endpoint, map[string]any{
			"home": l.home, "listen": host, "port": port, "parameters": map[string]string{"ssl": "off"},
		})
	case "p1/standby.yaml":
		file["warm"] = l.warmSection(fmt.Sprintf("%s:%d", l.Primary.Host, pgrun.Port), map[string]any{
			"home": l.oldHome(), "data": l.Primary.DataDir, "listen": l.Primary.Host, "port": pgrun.Port,
			"socket_dirs": []string{l.Primary.SocketDir},
			"rewind_from": l.WarmConn(),
		})
	}
}

// warmSection is a standby daemon's one warm server.
func (l *Lab) warmSection(endpoint string, settings map[string]any) []map[string]any {
	settings["bin_dir"], settings["feedback"] = l.Primary.Install.BinDir, l.cfg.Feedback
	if a := l.Primary.Install.Account; !a.Self {
		settings["account"] = a.Name
	}
	return []map[string]any{{"service": lab.Service, "stream": Stream, "store": "postgres", "endpoint": endpoint, "settings": settings}}
}

// oldHome is where the standby daemon beside the primary keeps what is its own.
func (l *Lab) oldHome() string { return l.home + "-p1" }

// listen is where the warm server takes clients.
func (l *Lab) listen() (host string, port uint16) {
	host, text, _ := net.SplitHostPort(l.endpoint) // as FreeAddr made it
	n, _ := strconv.ParseUint(text, 10, 16)
	return host, uint16(n)
}

// handle is one of our own on a server that a standby daemon runs.
func (l *Lab) handle(cfg server.Config) (*server.Server, error) {
	_, cfg.Port = l.listen()
	cfg.BinDir, cfg.Upstream = l.Primary.Install.BinDir, server.Upstream{SocketDir: "/run"}
	if a := l.Primary.Install.Account; !a.Self {
		cfg.Account = &server.Account{UID: a.UID, GID: a.GID}
	}
	return server.New(vfs.OS(), clock.System(), slog.New(slog.DiscardHandler), cfg.SetDefaults())
}

// Up starts everything in mode open, and returns once the warm server shows the
// primary's tables: the base has crossed and the log follows.
func (l *Lab) Up(ctx context.Context, say func(string)) error {
	if err := l.Lab.Up(ctx, say); err != nil {
		return err
	}
	if err := l.StartProc("route", lab.SiteWitness, l.Bin("tidegate"), "route", "--config", l.File("route.yaml")); err != nil {
		return err
	}
	say("the base crosses, and a hot standby is made of it")
	want := fmt.Sprintf("t|%d", l.cfg.Scale*100_000)
	return l.Until(ctx, "the warm server to follow", func(ctx context.Context) error {
		got, err := l.Warm(ctx, "SELECT pg_is_in_recovery(), count(*) FROM pgbench_accounts")
		if err == nil && got != want {
			err = fmt.Errorf("it says %s", got)
		}
		return err
	})
}

// Warm asks the warm server over its own socket, whatever it is by then. Rows are
// as psql -At prints them.
func (l *Lab) Warm(ctx context.Context, sql string) (string, error) {
	return ask(ctx, l.WarmConn(), sql)
}

// WarmConn is how to reach the warm server over its own socket.
func (l *Lab) WarmConn() string {
	_, port := l.listen()
	return fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres sslmode=disable", l.warm.SocketDir(), port)
}

// ThroughRoute asks whatever the route leads to.
func (l *Lab) ThroughRoute(ctx context.Context, sql string) (string, error) {
	return ask(ctx, l.routeConn(), sql)
}

func (l *Lab) routeConn() string {
	host, port, _ := strings.Cut(strings.TrimPrefix(l.Route(), "http://"), ":")
	return fmt.Sprintf("host=%s port=%s user=postgres password=%s dbname=postgres sslmode=disable connect_timeout=3", host, port, l.Primary.Password)
}

func ask(ctx context.Context, conn, sql string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	rows, err := pgrun.Query(ctx, conn, sql)
	return pgrun.Text(rows), err
}

// KillSite is a power cut of the primary site: kill -9 of both servers with all
// their backends and of the agent, at the same moment as far as one can.
func (l *Lab) KillSite() error {
	var g errgroup.Group
	g.Go(l.Primary.Kill)
	if l.Replica != nil {
		g.Go(l.Replica.Kill)
	}
	g.Go(func() error { l.Lab.KillSite(lab.SitePrimary); return nil })
	return g.Wait()
}

// Stall stops the agent from shipping and returns after span: a link that is up and
// carries nothing. The agent obeys within a quarter of a second.
func (l *Lab) Stall(ctx context.Context, span time.Duration) error {
	dir := l.File("p1", "rates")
	if err := errors.Join(os.MkdirAll(dir, 0o750), os.WriteFile(filepath.Join(dir, "ship"), []byte("0\n"), 0o640)); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(span):
		return nil
	}
}

// Close ends everything; what the daemons wrote stays in the lab's directory, the
// servers' data does not. It may be called again.
func (l *Lab) Close() error {
	var errs []error
	if l.Lab != nil {
		l.Lab.Close()
	}
	for _, s := range []*server.Server{l.warm, l.old} {
		if s != nil { // its standby daemon is gone, and does not stop it any more
			errs = append(errs, s.Stop(context.Background(), server.StopImmediate))
		}
	}
	for _, s := range []*pgrun.Server{l.Replica, l.copy, l.Primary} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

// WarmLog is what the warm server has logged.
func (l *Lab) WarmLog() (string, error) {
	b, err := os.ReadFile(l.warm.LogPath())
	return string(b), err
}

// WarmHome is where the standby daemon of the other site keeps the warm server.
func (l *Lab) WarmHome() string { return l.home }
