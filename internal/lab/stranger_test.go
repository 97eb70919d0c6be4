package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/pki"
	"github.com/tidegate/tidegate/shipper"
)

// Somebody with a certificate of another cluster is turned away by gate and
// standby node, is told why, and changes nothing.
func stranger(t *testing.T, s *stage) {
	keys := s.File("other-pki")
	s.ask(t, 0, "tidegate", "dev", "pki", "--dir", keys, "--cluster", "other",
		"--node", lab.SitePrimary+"/p9", "--identity", lab.SiteWitness+"/operator/eve")
	tls := func(site, role, name string) map[string]any {
		file := filepath.Join(keys, fmt.Sprintf("%s-%s-%s", site, role, name))
		return map[string]any{"ca": filepath.Join(keys, "ca.crt"), "cert": file + ".crt", "key": file + ".key"}
	}
	begun := s.ends(t)

	operator := s.File("eve.yaml")
	write(t, operator, map[string]any{"gates": []string{s.Gate()}, "tls": tls(lab.SiteWitness, "operator", "eve")})
	says(t, s.ask(t, 3, "tidegate", "status", "--config", operator), "another cluster", "hint: ")

	strangerAgent(t, s, tls(lab.SitePrimary, "agent", "p9"))

	authority, err := pki.Dev(keys, "other")
	if err != nil {
		t.Fatal(err)
	}
	creds, err := authority.Credentials(tidegate.Identity{Cluster: "other", Site: lab.SitePrimary, Role: tidegate.RoleAgent, Name: "p9"})
	if err != nil {
		t.Fatal(err)
	}
	// It looks away from the other's certificate, to see that the node looks at its own.
	blind := creds.ClientTLS(pki.Expect{})
	blind.VerifyConnection = nil
	for stream, end := range begun {
		conn, _, err := shipper.Dialer{TLS: blind, Clock: clock.System()}.Dial(t.Context(), s.ShipAddr("d1"),
			shipper.Attach{Stream: stream, As: shipper.AsWriter, Epoch: end.epoch + 1, Holder: tidegate.NewID()})
		if err == nil {
			_ = conn.Close() // it should not be there
			t.Fatalf("a stranger is attached to %s", stream)
		}
		if class := tidegate.ClassOf(err); class != tidegate.Refused {
			t.Errorf("class %s: %v", class, err)
		}
		says(t, err.Error(), "certificate")
	}
	says(t, s.log(t, "standby-d1"), "another cluster", "tidegate://other/east/agent/p9")
	for stream, end := range s.ends(t) {
		if end.epoch != begun[stream].epoch {
			t.Errorf("stream %s went from epoch %d to %d", stream, begun[stream].epoch, end.epoch)
		}
	}
	s.flows(t, "transfers beside strangers")
}

// strangerAgent runs an agent of another cluster against the lab's gate.
func strangerAgent(t *testing.T, s *stage, tls map[string]any) {
	t.Helper()
	b, err := os.ReadFile(s.File("p1", "agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file map[string]any
	if err := yaml.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	dir := s.File("p9")
	if err := os.MkdirAll(filepath.Join(dir, "run"), 0o750); err != nil {
		t.Fatal(err)
	}
	addr, err := lab.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	file["node"] = map[string]any{"cluster": "other", "site": lab.SitePrimary, "name": "p9"}
	file["tls"], file["listen"] = tls, addr
	file["data_dir"], file["run_dir"] = filepath.Join(dir, "agent"), filepath.Join(dir, "run")
	conf := filepath.Join(dir, "agent.yaml")
	write(t, conf, file)
	s.ask(t, 0, "tidegate-agent", "check-config", "--config", conf)
	if err := s.StartProc("agent-p9", lab.SiteWitness, s.Bin("tidegate-agent"), "run", "--config", conf); err != nil {
		t.Fatal(err)
	}
	defer s.Proc("agent-p9").Kill()
	s.until(t, "the stranger to say why it reaches no gate", func(context.Context) error {
		if text := s.log(t, "agent-p9"); !strings.Contains(text, "another cluster") {
			return errors.New("its log does not say so")
		}
		return nil
	})
	says(t, s.ask(t, 12, "tidegate-agent", "status", "--config", conf), "no gate answers", "another cluster")
}

// end is where a stream stands.
type end struct{ epoch tidegate.Epoch }

// ends returns where each stream stands, as the gate knows it.
func (s *stage) ends(t *testing.T) map[tidegate.StreamID]end {
	t.Helper()
	out := map[tidegate.StreamID]end{}
	s.within(t, func(ctx context.Context) error {
		st, err := s.Status(ctx)
		if err != nil {
			return err
		}
		for _, svc := range st.GetServices() {
			for _, x := range svc.GetStreams() {
				id, err := tidegate.ParseID(x.GetView().GetId())
				if err != nil {
					return err
				}
				out[id] = end{tidegate.Epoch(x.GetView().GetEpoch().GetEpoch())}
			}
		}
		if len(out) != len(lab.Currencies) {
			return fmt.Errorf("%d streams", len(out))
		}
		return nil
	})
	return out
}

// log returns what a process has logged.
func (s *stage) log(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(s.File("logs", name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, path string, file map[string]any) {
	t.Helper()
	b, err := yaml.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A configuration with several mistakes is refused before anything is started,
// with all of them.
func TestMistakesInConfiguration(t *testing.T) {
	s := layOut(t, lab.Plant{})
	node := map[string]any{"cluster": "lab", "site": "west", "name": "N 1"}
	tls := map[string]any{"ca": "ca.crt", "cert": "/x/d.crt", "key": "/x/d.key"}
	for _, c := range []struct {
		bin, role string
		file      map[string]any
		want      []string
	}{
		{"tidegate-agent", "", map[string]any{
			"node": node, "tls": tls, "gates": []string{}, "run_dir": "run", "limits": map[string]any{"batch_bytes_max": "1TiB"},
			"streams": []any{map[string]any{"service": "ledger", "stream": "eur", "journal_dir": "j", "source": "tape"}},
		}, []string{"node.name: ", "tls.ca: ", "gates: ", "run_dir: ", "limits.batch_bytes_max: ", "streams[0].journal_dir: ", "streams[0].source: "}},
		{"tidegate", "standby", map[string]any{
			"node": node, "tls": tls, "gates": []string{"nowhere"}, "data_dir": "d", "ship": map[string]any{"listen": "x"},
			"limits": map[string]any{"free_bytes_min": "1KiB"},
		}, []string{"node.name: ", "tls.ca: ", "gates[0]: ", "data_dir: ", "ship.listen: ", "ship.public: ", "api.public: ", "limits.free_bytes_min: "}},
		{"tidegate", "gate", map[string]any{
			"node": node, "tls": tls, "gate": map[string]any{
				"listen": "x", "dir": "d", "timing": map[string]any{"stale": "1s"}, "registry": map[string]any{"leader_ttl": "1s"},
				"probes": []any{map[string]any{"service": "L", "settings": map[string]any{"url": "x"}}},
			},
		}, []string{"node.name: ", "tls.ca: ", "gate.listen: ", "gate.dir: ", "gate.timing.stale: ", "gate.registry.leader_ttl: ", "gate.probes[0].service: ", "gate.probes[0].settings.url: "}},
		{"tidegate", "route", map[string]any{
			"node": node, "tls": tls, "route": map[string]any{"dir": "d", "gates": []string{}, "services": []any{}},
		}, []string{"node.name: ", "tls.ca: ", "route.gates: ", "route.dir: ", "route.services: "}},
	} {
		conf := s.File(c.bin + c.role + ".yaml")
		write(t, conf, c.file)
		args := []string{"check-config", "--config", conf}
		run := []string{"run", "--config", conf}
		if c.role != "" {
			args, run = []string{"check-config", c.role, conf}, []string{c.role, "--config", conf}
		}
		for _, args := range [][]string{args, run} {
			text := s.ask(t, 2, c.bin, args...)
			says(t, text, append(c.want, "mistakes", "hint: ")...)
		}
	}
}
