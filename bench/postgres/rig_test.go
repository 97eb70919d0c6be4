//go:build bench

package postgres

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

const (
	streamName = "main"
	ourName    = "tidegate"
	nativeName = "native"
	patience   = 3 * time.Minute
)

// rig is a primary with a crossing of ours, N=1.
type rig struct {
	*lab.Lab
	t       *testing.T
	primary *pgtest.Server
	home    string // of the warm server, "" for none
}

// plan is what is special about a rig.
type plan struct {
	warm  bool          // a hot standby beside the standby node
	rtt   time.Duration // between agent and standby node
	scale int           // of pgbench's tables
}

func newRig(t *testing.T, p plan) *rig {
	t.Helper()
	r := &rig{t: t, primary: pgtest.New(t, pgtest.Config{Settings: map[string]string{
		"fsync": "on", "shared_buffers": "256MB", "max_connections": "100", "max_wal_size": "16GB", "checkpoint_timeout": "1h",
		"autovacuum": "off", "wal_sender_timeout": "0", "wal_receiver_timeout": "0", "log_checkpoints": "on",
	}})}
	r.primary.SQL(t, `CREATE ROLE tidegate LOGIN REPLICATION; GRANT pg_monitor TO tidegate`)
	r.primary.BenchInit(t, p.scale)
	if p.warm {
		r.home = filepath.Join(r.primary.Place(t), "warm")
	}
	dir, err := os.MkdirTemp("/tmp", "tgbench-") //nolint:usetesting // a socket's path must fit into 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs are left in %s\n%s", dir, lab.Tails(dir, 15))
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	var far *lab.Delay
	if p.rtt > 0 {
		far = r.relay(p.rtt)
	}
	r.Lab, err = lab.New(lab.Plant{
		Dir: filepath.Join(dir, "lab"), Bin: *bin, Primaries: 1, Standbys: 1, NoService: true, Streams: []string{streamName},
		Store: "postgres", Mode: tidegate.ModeOpen, Tune: r.tune(far),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	// The warm server's account passes through these to the socket that it is fed by.
	for _, d := range []string{dir, r.File(), r.File("d1"), r.RunDir("d1")} {
		if err := os.Chmod(d, 0o755); err != nil { //nolint:gosec // nothing else is in there to be kept from others
			t.Fatal(err)
		}
	}
	ctx := r.within()
	if err := r.Up(ctx, func(string) {}); err != nil {
		t.Fatal(err)
	}
	r.Proc("agent-d1").Kill() // nothing becomes active there
	r.crossed("the base and the log since to be durable")
	return r
}

// within bounds one wait.
func (r *rig) within() context.Context {
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	r.t.Cleanup(cancel)
	return ctx
}

func (r *rig) until(what string, cond func(context.Context) error) {
	r.t.Helper()
	if err := r.Until(r.within(), what, cond); err != nil {
		r.t.Fatal(err)
	}
}

// relay is distance; it ends with the test.
func (r *rig) relay(rtt time.Duration) *lab.Delay {
	r.t.Helper()
	d, err := lab.NewDelay(rtt / 2)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var g errgroup.Group
	g.Go(func() error { return d.Run(ctx) })
	r.t.Cleanup(func() {
		cancel()
		if err := g.Wait(); err != nil {
			r.t.Error(err)
		}
	})
	return d
}

// agentFile is where the primary's agent reads how to go about it.
const agentFile = "p1/agent.yaml"

func (r *rig) tune(far *lab.Delay) func(string, map[string]any) {
	conn := func(host string) string {
		return fmt.Sprintf("host=%s port=%d user=tidegate dbname=postgres sslmode=disable", host, pgtest.Port)
	}
	stream := func(conn string) []map[string]any {
		return []map[string]any{{
			"service": lab.Service, "stream": streamName, "source": "postgres", "endpoint": fmt.Sprintf("%s:%d", r.primary.Host, pgtest.Port),
			"codec": "snappy", "settings": map[string]any{"conn": conn, "slot": ourName, "name": ourName},
		}}
	}
	return func(name string, file map[string]any) {
		switch name {
		case agentFile:
			file["streams"] = stream(conn(r.primary.SocketDir))
		case "d1/agent.yaml":
			file["streams"] = stream(conn("/nonexistent"))
		case "d1/standby.yaml":
			if far != nil {
				ship := file["ship"].(map[string]any) //nolint:forcetypeassert // as the lab writes it
				far.Lead(ship["listen"].(string))     //nolint:forcetypeassert // likewise
				ship["public"] = far.Addr()
			}
			if r.home == "" {
				return
			}
			settings := map[string]any{
				"home": r.home, "bin_dir": r.primary.BinDir, "listen": r.primary.Host, "port": warmPort,
				"parameters": map[string]string{"ssl": "off"},
			}
			if !r.primary.Account.Self {
				settings["account"] = r.primary.Account.Name
			}
			file["warm"] = []map[string]any{{
				"service": lab.Service, "stream": streamName, "store": "postgres",
				"endpoint": fmt.Sprintf("%s:%d", r.primary.Host, warmPort), "settings": settings,
			}}
		}
	}
}

// codec starts the agent again with a codec, and waits until it ships.
func (r *rig) codec(name string) {
	r.t.Helper()
	path := r.File(agentFile)
	text, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		if at := strings.Index(line, "codec: "); at >= 0 {
			lines[i] = line[:at] + "codec: " + name
		}
	}
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		r.t.Fatal(err)
	}
	agent := r.Proc("agent-p1")
	agent.Stop(10 * time.Second)
	if err := agent.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.crossed("what the agent had not shipped")
}

// plain asks for no compression, which the agent would pay for.
var plain = &http.Client{Transport: &http.Transport{DisableCompression: true}}

// metrics reads what the primary's agent says of itself, labels left out.
func (r *rig) metrics(ctx context.Context) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.AgentURL("p1")+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	res, err := plain.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	out := map[string]float64{}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if at := strings.IndexByte(name, '{'); at >= 0 {
			name, value = name[:at], lines.Text()[strings.LastIndexByte(lines.Text(), ' ')+1:]
		}
		if n, err := strconv.ParseFloat(value, 64); err == nil {
			out[name] = n
		}
	}
	return out, lines.Err()
}

const (
	metricDurable = "tidegate_agent_durable_position"
	metricShipped = "tidegate_agent_shipped_bytes_total"
	metricCPU     = "process_cpu_seconds_total"
)

// lookEvery is how often D is looked at: an answer costs the agent half a
// millisecond, and none is later than this.
const lookEvery = 25 * time.Millisecond

// durable polls D until it has reached end; then it returns the agent's metrics.
func (r *rig) durable(ctx context.Context, end wal.LSN) (map[string]float64, error) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		m, err := r.metrics(ctx)
		if err == nil && wal.LSN(m[metricDurable]) >= end {
			return m, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("d is %s, want %s", wal.LSN(m[metricDurable]), end), err, r.Died())
		case <-tick.C:
		}
	}
}

// end is what the primary has flushed.
func (r *rig) end() wal.LSN {
	r.t.Helper()
	lsn, err := wal.ParseLSN(r.primary.LSN(r.t))
	if err != nil {
		r.t.Fatal(err)
	}
	return lsn
}

// crossed waits until all that the primary has is durable at the far side.
func (r *rig) crossed(what string) map[string]float64 {
	r.t.Helper()
	m, err := r.durable(r.within(), r.end())
	if err != nil {
		r.t.Fatalf("%s: %v", what, err)
	}
	return m
}

// gate sets the stream's mode and waits until the record has it.
func (r *rig) gate(mode tidegate.Mode, want pb.Mode, more ...string) {
	r.t.Helper()
	args := append([]string{"gate", "set", "--reason", "bench", "--mode", string(mode)}, append(more, lab.Service+"/"+streamName)...)
	if _, err := r.Tidegate(r.within(), args...); err != nil {
		r.t.Fatal(err)
	}
	r.until("the record to say "+string(mode), func(ctx context.Context) error {
		st, err := r.Status(ctx)
		if err != nil {
			return err
		}
		for _, svc := range st.GetServices() {
			for _, x := range svc.GetStreams() {
				if g := x.GetView().GetEpoch().GetGate(); g.GetMode() != want || g.GetState() != pb.GateState_GATE_STATE_ARMED {
					return fmt.Errorf("it says %s %s", g.GetState(), g.GetMode())
				}
			}
		}
		return nil
	})
}

// names sets synchronous_standby_names and waits until it is in force and, unless
// it is empty, somebody answers to it.
func (r *rig) names(names string) {
	r.t.Helper()
	r.primary.SQL(r.t, "ALTER SYSTEM SET synchronous_standby_names = '"+names+"'")
	r.primary.SQL(r.t, "SELECT pg_reload_conf()")
	r.primary.UntilSQL(r.t, "SHOW synchronous_standby_names", names)
	if names != "" {
		r.primary.UntilSQL(r.t, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'", "1")
	}
}

// freeze stops our processes on both sides in their tracks, or lets them go on.
func (r *rig) freeze(frozen bool) {
	r.t.Helper()
	sig := syscall.SIGCONT
	if frozen {
		sig = syscall.SIGSTOP
	}
	for _, name := range []string{"agent-p1", "standby-d1"} {
		if err := r.Proc(name).Signal(sig); err != nil {
			r.t.Fatal(err)
		}
	}
}

// native makes a hot standby that follows the primary by TLS, through distance if
// there is any.
func (r *rig) native(rtt time.Duration) *pgtest.Server {
	r.t.Helper()
	s := r.primary.Replica(r.t, pgtest.Config{})
	conn := r.primary.TCP("application_name=" + nativeName)
	if rtt > 0 {
		far := r.relay(rtt)
		far.Lead(fmt.Sprintf("%s:%d", r.primary.Host, pgtest.Port))
		host, port, _ := strings.Cut(far.Addr(), ":")
		conn = r.primary.TCP("application_name="+nativeName, "host="+host, "port="+port, "sslmode=verify-ca")
	}
	s.SQL(r.t, "ALTER SYSTEM SET primary_conninfo = '"+strings.ReplaceAll(conn, "'", "''")+"'")
	s.SQL(r.t, "SELECT pg_reload_conf()")
	r.primary.UntilSQL(r.t, "SELECT count(*) FROM pg_stat_replication JOIN pg_stat_ssl USING (pid) WHERE ssl AND application_name = '"+nativeName+"' AND state = 'streaming'", "1")
	return s
}
