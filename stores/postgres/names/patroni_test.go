package names

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/pgtest"
)

// cluster is a real Patroni of one node with a real server, over a real etcd.
type cluster struct {
	t    *testing.T
	api  string
	conn string
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func startEtcd(t *testing.T) (addr string) {
	t.Helper()
	dir := t.TempDir()
	client := url.URL{Scheme: "http", Host: "127.0.0.1:" + freePort(t)}
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:" + freePort(t)}
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir, cfg.LogLevel = "dcs", dir, "panic"
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.Name + "=" + peer.String()
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	select {
	case <-e.Server.ReadyNotify():
	case <-time.After(time.Minute):
		t.Fatal("etcd is not ready after a minute")
	}
	return client.Host
}

func startPatroni(t *testing.T, local string) *cluster {
	t.Helper()
	bin, err := exec.LookPath("patroni")
	if err != nil {
		t.Fatalf("%v; run: sudo apt-get install patroni (or tools/needs)", err)
	}
	in := pgtest.Find(t)
	home := in.Place(t)
	api, port := freePort(t), freePort(t)
	file := filepath.Join(home, "patroni.yml")
	in.WriteFile(t, file, fmt.Sprintf(`
scope: shop
name: n1
restapi: {listen: "127.0.0.1:%[1]s", connect_address: "127.0.0.1:%[1]s", authentication: {username: tidegate, password: secret}}
etcd3: {host: %[2]q}
bootstrap:
  dcs: {ttl: 30, loop_wait: 2, retry_timeout: 5, postgresql: {parameters: {shared_buffers: 16MB}}}
  initdb: [{auth: trust}, {encoding: UTF8}, {locale: C}, no-sync]
postgresql:
  listen: "127.0.0.1:%[3]s"
  connect_address: "127.0.0.1:%[3]s"
  data_dir: %[4]s/data
  bin_dir: %[5]s
  authentication: {superuser: {username: postgres}, replication: {username: postgres}}
  parameters: {unix_socket_directories: %[4]s, fsync: "off"%[6]s}
`, api, startEtcd(t), port, home, in.BinDir, local), 0o600)
	out, err := os.Create(filepath.Join(t.TempDir(), "patroni.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, file)
	cmd.Dir, cmd.SysProcAttr = home, in.SysProcAttr()
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + home, "LC_ALL=C.UTF-8"}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Patroni stops its server when it is asked to end.
		_ = cmd.Process.Signal(os.Interrupt)                                      // it may have ended
		kill := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() }) // it may have ended
		_ = cmd.Wait()                                                            // by a signal
		kill.Stop()
		if text, err := os.ReadFile(out.Name()); err == nil && t.Failed() {
			t.Logf("patroni:\n%s", text)
		}
		_ = out.Close() // read already
	})
	c := &cluster{t: t, api: "http://127.0.0.1:" + api, conn: fmt.Sprintf("host=127.0.0.1 port=%s user=postgres dbname=postgres sslmode=disable", port)}
	pgtest.Until(t, "patroni's server to be its primary", func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.api+"/primary", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return errors.New(res.Status)
		}
		return nil
	})
	http.DefaultClient.CloseIdleConnections()
	return c
}

func (c *cluster) until(want string) {
	c.t.Helper()
	pgtest.Until(c.t, "the server to show names "+want, func(ctx context.Context) error {
		pg, err := pgconn.Connect(ctx, c.conn)
		if err != nil {
			return err
		}
		defer pg.Close(context.WithoutCancel(ctx))
		got, err := pg.Exec(ctx, "SHOW synchronous_standby_names").ReadAll()
		if err == nil && string(got[0].Rows[0][0]) != want {
			err = fmt.Errorf("it shows %q", got[0].Rows[0][0])
		}
		return err
	})
}

func (c *cluster) driver(secret string) Driver {
	c.t.Helper()
	file := filepath.Join(c.t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return driver(c.t, Config{Driver: Patroni, Patroni: PatroniConfig{URL: c.api, User: "tidegate", PasswordFile: file}})
}

func (c *cluster) patch(body string) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodPatch, c.api+"/config", strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.SetBasicAuth("tidegate", "secret")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if res.StatusCode != http.StatusOK {
		c.t.Fatal(res.Status)
	}
}

func TestPatroniSetsNames(t *testing.T) {
	c := startPatroni(t, "")
	c.until("")
	refuses(t, c.driver("wrong").Set(t.Context(), nil, "tidegate"), tidegate.Misuse, "401", "password_file")
	d := c.driver("secret")
	for _, want := range []string{"tidegate", "", "tidegate"} {
		if err := d.Set(t.Context(), nil, want); err != nil {
			t.Fatal(err)
		}
		c.until(want)
	}
	c.patch(`{"synchronous_mode": true}`)
	c.until("") // Patroni's own doing: there is nobody else in its cluster
	refuses(t, d.Set(t.Context(), nil, "tidegate"), tidegate.Misuse, "synchronous_mode is true")
	c.patch(`{"synchronous_mode": null}`)
	c.until("tidegate") // the parameter was there all the time
}
