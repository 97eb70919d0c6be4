package names

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores/postgres/replication"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func driver(t *testing.T, cfg Config) Driver {
	t.Helper()
	cfg = cfg.SetDefaults()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// refuses checks the class of an error and what it and its hint say.
func refuses(t *testing.T, err error, class tidegate.Class, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("it says it has set the names")
	}
	if got := tidegate.ClassOf(err); got != class {
		t.Errorf("class %s, want %s: %v", got, class, err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error()+"\n"+tidegate.HintOf(err), p) {
			t.Errorf("want %q in: %v\n%s", p, err, tidegate.HintOf(err))
		}
	}
}

func TestEveryMistakeIsReported(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
		want []string
	}{
		{"none", Config{}, nil},
		{"alter-system", Config{Driver: AlterSystem}, nil},
		{"patroni", Config{Driver: Patroni, Patroni: PatroniConfig{URL: "https://n1:8008", User: "u", PasswordFile: "/p", CA: "/ca", Cert: "/c", Key: "/k"}}, nil},
		{"exec", Config{Driver: Exec, Exec: ExecConfig{Command: []string{"/bin/true"}}}, nil},
		{"unknown", Config{Driver: "repmgr", Timeout: -1}, []string{"driver", "timeout"}},
		{
			"patroni's",
			Config{Driver: Patroni, Patroni: PatroniConfig{URL: "http://u:p@n1:8008/config", User: "u", CA: "ca", Cert: "/c"}, Exec: ExecConfig{Command: []string{"/bin/true"}}},
			[]string{"exec", "patroni.ca", "patroni.cert", "patroni.url", "patroni.user"},
		},
		{"plain", Config{Driver: Patroni, Patroni: PatroniConfig{URL: "http://n1:8008", CA: "/ca"}}, []string{"patroni.ca"}},
		{"exec's", Config{Driver: Exec, Patroni: PatroniConfig{URL: "http://n1:8008"}, Exec: ExecConfig{Command: []string{"true"}}}, []string{"exec.command[0]", "patroni"}},
		{"no program", Config{Driver: Exec}, []string{"exec.command"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := config.Refuse("test", c.cfg.SetDefaults().Validate())
			if len(c.want) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil {
				t.Fatal("nothing was wrong")
			}
			for _, key := range c.want {
				if !strings.Contains(err.Error(), "\n  "+key+":") {
					t.Errorf("nothing about %s in: %v", key, err)
				}
			}
		})
	}
}

func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "set-names")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil { //nolint:gosec // it is to be run
		t.Fatal(err)
	}
	return path
}

func TestExec(t *testing.T) {
	told := filepath.Join(t.TempDir(), "told")
	d := driver(t, Config{Driver: Exec, Exec: ExecConfig{Command: []string{script(t, `printf '%s' "$TIDEGATE_STANDBY_NAMES" > "$1"`), told}}})
	for _, want := range []string{"tidegate", "", "ANY 1 (a, b)"} {
		if err := d.Set(t.Context(), nil, want); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(told); err != nil || string(got) != want {
			t.Errorf("the program was told %q, want %q (%v)", got, want, err)
		}
	}
}

func TestExecThatFails(t *testing.T) {
	err := driver(t, Config{Driver: Exec, Exec: ExecConfig{Command: []string{script(t, "echo no such; echo cluster >&2; exit 3")}}}).Set(t.Context(), nil, "tidegate")
	refuses(t, err, tidegate.Transient, "exit status 3", "no such cluster", "TIDEGATE_STANDBY_NAMES='tidegate'")
	err = driver(t, Config{Driver: Exec, Exec: ExecConfig{Command: []string{"/nonexistent/program"}}}).Set(t.Context(), nil, "tidegate")
	refuses(t, err, tidegate.Transient, "no such file")
	began := time.Now()
	err = driver(t, Config{Driver: Exec, Timeout: 100 * time.Millisecond, Exec: ExecConfig{Command: []string{script(t, "sleep 60 & sleep 60")}}}).Set(t.Context(), nil, "tidegate")
	refuses(t, err, tidegate.Transient, "killed after 100ms")
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestAlterSystem(t *testing.T) {
	pg := pgtest.New(t, pgtest.Config{})
	pg.SQL(t, "CREATE ROLE tidegate LOGIN REPLICATION; GRANT pg_monitor TO tidegate")
	sql, err := replication.ConnectSQL(t.Context(), replication.Config{Conn: pg.Conn("user=tidegate"), ApplicationName: "names"})
	if err != nil {
		t.Fatal(err)
	}
	defer sql.Close()
	d := driver(t, Config{Driver: AlterSystem})
	refuses(t, d.Set(t.Context(), sql, "tidegate"), tidegate.Misuse, "GRANT ALTER SYSTEM ON PARAMETER")
	pg.SQL(t, "GRANT ALTER SYSTEM ON PARAMETER synchronous_standby_names TO tidegate")
	refuses(t, d.Set(t.Context(), sql, "tidegate"), tidegate.Misuse, "GRANT EXECUTE ON FUNCTION pg_reload_conf")
	pg.SQL(t, "GRANT EXECUTE ON FUNCTION pg_reload_conf TO tidegate")
	for _, want := range []string{"tidegate", "", "tidegate"} {
		if err := d.Set(t.Context(), sql, want); err != nil {
			t.Fatal(err)
		}
		pg.UntilSQL(t, "SHOW synchronous_standby_names", want)
	}
}

// api answers as Patroni's /config does: the configuration is patched, null deletes.
type api struct {
	mu     sync.Mutex
	config map[string]any
	status int // of a PATCH, unless 0
	deaf   bool
	calls  []string
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, r.Method)
	if r.URL.Path != "/config" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if r.Method == http.MethodPatch {
		if user, secret, ok := r.BasicAuth(); !ok || user != "tidegate" || secret != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if a.status != 0 {
			w.WriteHeader(a.status)
			return
		}
		var change map[string]any
		if err := json.NewDecoder(r.Body).Decode(&change); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if !a.deaf {
			patch(a.config, change)
		}
	}
	_ = json.NewEncoder(w).Encode(a.config) // a client that is gone has given up
}

func patch(into, change map[string]any) {
	for k, v := range change {
		from, isMap := v.(map[string]any)
		to, wasMap := into[k].(map[string]any)
		switch {
		case v == nil:
			delete(into, k)
		case isMap && wasMap:
			patch(to, from)
		default:
			into[k] = v
		}
	}
}

// newAPI starts one with a configuration, and a driver for it.
func newAPI(t *testing.T, text string) (*api, Driver) {
	t.Helper()
	a := &api{}
	if err := json.Unmarshal([]byte(text), &a.config); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(a)
	t.Cleanup(s.Close)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return a, driver(t, Config{Driver: Patroni, Patroni: PatroniConfig{URL: s.URL, User: "tidegate", PasswordFile: secret}})
}

func TestPatroniAPI(t *testing.T) {
	a, d := newAPI(t, `{"ttl": 30, "synchronous_mode": "off", "postgresql": {"use_slots": true, "parameters": {"max_connections": 100}}}`)
	for _, want := range []string{"tidegate", "tidegate", ""} {
		if err := d.Set(t.Context(), nil, want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := json.Marshal(a.config)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"postgresql":{"parameters":{"max_connections":100,"synchronous_standby_names":""},"use_slots":true},"synchronous_mode":"off","ttl":30}`; string(got) != want {
		t.Errorf("configuration %s, want %s", got, want)
	}
	if got, want := strings.Join(a.calls, " "), "GET PATCH GET GET PATCH"; got != want {
		t.Errorf("calls %s, want %s", got, want)
	}
}

func TestPatroniRefuses(t *testing.T) {
	for _, mode := range []string{`true`, `"on"`, `"quorum"`, `1`} {
		a, d := newAPI(t, `{"synchronous_mode": `+mode+`}`)
		refuses(t, d.Set(t.Context(), nil, "tidegate"), tidegate.Misuse, "synchronous_mode is", "edit-config")
		if got := strings.Join(a.calls, " "); got != "GET" {
			t.Errorf("synchronous_mode %s: calls %s", mode, got)
		}
	}
	for status, class := range map[int]tidegate.Class{
		http.StatusUnauthorized: tidegate.Misuse, http.StatusForbidden: tidegate.Misuse, http.StatusConflict: tidegate.Transient,
		http.StatusServiceUnavailable: tidegate.Transient, http.StatusFound: tidegate.Transient,
	} {
		a, d := newAPI(t, `{}`)
		a.status = status
		refuses(t, d.Set(t.Context(), nil, "tidegate"), class, "PATCH /config: ")
	}
	a, d := newAPI(t, `{}`)
	a.deaf = true
	refuses(t, d.Set(t.Context(), nil, "tidegate"), tidegate.Permanent, "show-config")
}

func TestPatroniAway(t *testing.T) {
	d := driver(t, Config{Driver: Patroni, Patroni: PatroniConfig{URL: "http://127.0.0.1:1"}})
	refuses(t, d.Set(t.Context(), nil, "tidegate"), tidegate.Transient, "refused")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) })) // as any other server answers
	defer s.Close()
	d = driver(t, Config{Driver: Patroni, Patroni: PatroniConfig{URL: s.URL}})
	refuses(t, d.Set(t.Context(), nil, "tidegate"), tidegate.Permanent, "no configuration")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Set(ctx, nil, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
