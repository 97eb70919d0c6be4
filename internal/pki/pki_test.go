package pki

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
)

func identity(cluster string, role tidegate.Role, name string) tidegate.Identity {
	return tidegate.Identity{Cluster: cluster, Site: "east", Role: role, Name: name}
}

func credentials(t *testing.T, dir string, id tidegate.Identity) *Credentials {
	t.Helper()
	a, err := Dev(dir, id.Cluster)
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.Credentials(id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// handshake returns both ends' verdicts and what the server saw.
func handshake(t *testing.T, server, client *tls.Config) (srvErr, cliErr error, peer tidegate.Identity) { //nolint:staticcheck // two errors, as the name says
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	srv, cli := tls.Server(a, server), tls.Client(b, client)
	done := make(chan error, 1)
	go func() { // owned by this function; ends with the handshake
		err := srv.HandshakeContext(ctx)
		if err == nil {
			_, err = srv.Write([]byte("x"))
		}
		a.Close()
		done <- err
	}()
	cliErr = cli.HandshakeContext(ctx)
	if cliErr == nil {
		// In TLS 1.3 the client hears of a refusal with its first read.
		_, cliErr = cli.Read(make([]byte, 1))
	}
	b.Close()
	srvErr = <-done
	if srvErr == nil {
		var err error
		if peer, err = PeerIdentity(srv.ConnectionState()); err != nil {
			t.Fatal(err)
		}
		if v := srv.ConnectionState().Version; v != tls.VersionTLS13 {
			t.Errorf("version = %x, want TLS 1.3", v)
		}
	}
	return srvErr, cliErr, peer
}

func TestHandshake(t *testing.T) {
	dirA, dirB, dirC := t.TempDir(), t.TempDir(), t.TempDir()
	agent := credentials(t, dirA, identity("acme", tidegate.RoleAgent, "n1"))
	standby := credentials(t, dirA, identity("acme", tidegate.RoleStandby, "s1"))
	other := credentials(t, dirB, identity("beta", tidegate.RoleAgent, "n1"))
	forged := credentials(t, dirC, identity("acme", tidegate.RoleAgent, "n1")) // same name, own authority

	for _, tc := range []struct {
		name             string
		server, client   *tls.Config
		wantSrv, wantCli error
	}{
		{"mutual", standby.ServerTLS(tidegate.RoleAgent), agent.ClientTLS(Expect{tidegate.RoleStandby, "s1"}), nil, nil},
		{"any role", standby.ServerTLS(), agent.ClientTLS(Expect{}), nil, nil},
		{"client of another cluster", standby.ServerTLS(), other.ClientTLS(Expect{}), nil, ErrOtherCluster},
		{"server of another cluster", other.ServerTLS(), standby.ClientTLS(Expect{}), nil, ErrOtherCluster},
		{"forged authority", standby.ServerTLS(), forged.ClientTLS(Expect{}), nil, ErrUntrusted},
		{"role not allowed", standby.ServerTLS(tidegate.RoleGate), agent.ClientTLS(Expect{}), ErrOtherPeer, nil},
		{"server has another role", standby.ServerTLS(), agent.ClientTLS(Expect{Role: tidegate.RoleGate}), nil, ErrOtherPeer},
		{"server has another name", standby.ServerTLS(), agent.ClientTLS(Expect{Name: "s2"}), nil, ErrOtherPeer},
	} {
		t.Run(tc.name, func(t *testing.T) {
			srvErr, cliErr, peer := handshake(t, tc.server, tc.client)
			if tc.wantSrv == nil && tc.wantCli == nil {
				if srvErr != nil || cliErr != nil || peer != agent.Identity() {
					t.Fatalf("server %v, client %v, peer %s; want none refused and peer %s", srvErr, cliErr, peer, agent.Identity())
				}
				return
			}
			if srvErr == nil || cliErr == nil {
				t.Fatalf("server %v, client %v; want both ends to fail", srvErr, cliErr)
			}
			for _, end := range []struct{ got, want error }{{srvErr, tc.wantSrv}, {cliErr, tc.wantCli}} {
				if end.want != nil && (!errors.Is(end.got, end.want) || tidegate.ClassOf(end.got) != tidegate.Refused) {
					t.Errorf("error = %v (class %s), want %v (class refused)", end.got, tidegate.ClassOf(end.got), end.want)
				}
			}
		})
	}
}

// A server that does not verify would let a foreign client in: here the client
// verifies nothing, so that only the server's check can refuse.
func TestServerRefusesForeignClient(t *testing.T) {
	standby := credentials(t, t.TempDir(), identity("acme", tidegate.RoleStandby, "s1"))
	for _, tc := range []struct {
		name    string
		foreign *Credentials
		want    error
	}{
		{"other cluster", credentials(t, t.TempDir(), identity("beta", tidegate.RoleAgent, "n1")), ErrOtherCluster},
		{"forged", credentials(t, t.TempDir(), identity("acme", tidegate.RoleAgent, "n1")), ErrUntrusted},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lax := tc.foreign.ClientTLS(Expect{})
			lax.VerifyConnection = nil
			if srvErr, _, _ := handshake(t, standby.ServerTLS(), lax); !errors.Is(srvErr, tc.want) {
				t.Errorf("server error = %v, want %v", srvErr, tc.want)
			}
		})
	}
}

func TestNoCertificateAndOldTLSAreRefused(t *testing.T) {
	dir := t.TempDir()
	standby := credentials(t, dir, identity("acme", tidegate.RoleStandby, "s1"))
	agent := credentials(t, dir, identity("acme", tidegate.RoleAgent, "n1"))
	bare := agent.ClientTLS(Expect{})
	bare.GetClientCertificate = nil
	if srvErr, _, _ := handshake(t, standby.ServerTLS(), bare); srvErr == nil {
		t.Error("a client without a certificate was let in")
	}
	old := agent.ClientTLS(Expect{})
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if srvErr, _, _ := handshake(t, standby.ServerTLS(), old); srvErr == nil {
		t.Error("TLS 1.2 was let in")
	}
}

func TestReload(t *testing.T) {
	dir := t.TempDir()
	a, err := Dev(dir, "acme")
	if err != nil {
		t.Fatal(err)
	}
	id := identity("acme", tidegate.RoleAgent, "n1")
	f, err := a.Issue(id, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Load(f.Cert, f.Key, f.CA)
	if err != nil {
		t.Fatal(err)
	}
	if d := c.ExpiresIn(time.Now()); d <= 0 || d > time.Hour {
		t.Fatalf("expires in %s, want up to 1h", d)
	}
	if _, err := a.Issue(id, []string{"n1.example"}, 48*time.Hour); err != nil {
		t.Fatal(err)
	}
	if d := c.ExpiresIn(time.Now()); d < 47*time.Hour {
		t.Errorf("after renewal expires in %s, want 48h", d)
	}
	good := c.ExpiresIn(time.Time{})
	if err := os.WriteFile(f.Cert, []byte("half a cert"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c.ReloadErr() == nil {
		t.Error("unreadable certificate not reported")
	}
	if c.ExpiresIn(time.Time{}) != good {
		t.Error("unreadable certificate replaced the one in use")
	}
}

func TestReloadRefusesAnotherIdentity(t *testing.T) {
	dir := t.TempDir()
	c := credentials(t, dir, identity("acme", tidegate.RoleAgent, "n1"))
	credentials(t, dir, identity("acme", tidegate.RoleAgent, "n2"))
	for _, ext := range []string{".crt", ".key"} {
		if err := os.Rename(dir+"/east-agent-n2"+ext, dir+"/east-agent-n1"+ext); err != nil {
			t.Fatal(err)
		}
	}
	if c.ReloadErr() == nil || c.Identity().Name != "n1" {
		t.Errorf("reload error %v, identity %s; want an error and n1", c.ReloadErr(), c.Identity())
	}
}

func TestFilesAreForTheOwnerOnly(t *testing.T) {
	dir := t.TempDir()
	credentials(t, dir, identity("acme", tidegate.RoleAgent, "n1"))
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 4 {
		t.Fatalf("%d files, want ca and node, certificate and key", len(entries))
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v; want 0600", e.Name(), info.Mode().Perm(), err)
		}
	}
}

func TestAuthorityOfAnotherClusterIsRefused(t *testing.T) {
	dir := t.TempDir()
	if _, err := Dev(dir, "acme"); err != nil {
		t.Fatal(err)
	}
	if _, err := Dev(dir, "beta"); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("open = %v, want %v", err, ErrOtherCluster)
	}
	a, err := OpenAuthority(t.TempDir(), "acme", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Issue(identity("beta", tidegate.RoleAgent, "n1"), nil, time.Hour); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("issue = %v, want %v", err, ErrOtherCluster)
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	_, err := Load("/nowhere/n1.crt", "/nowhere/n1.key", "/nowhere/ca.crt")
	if tidegate.ClassOf(err) != tidegate.Misuse || tidegate.HintOf(err) == "" {
		t.Errorf("load = %v, class %s, hint %q; want misuse with a hint", err, tidegate.ClassOf(err), tidegate.HintOf(err))
	}
}
