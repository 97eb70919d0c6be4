package server

import (
	"context"
	"slices"
	"testing"

	"github.com/tidegate/tidegate/internal/pgtest"
)

func TestServerOfSomebodyElsesStartsAsItWas(t *testing.T) {
	p := primary(t, map[string]string{"work_mem": "5MB"})
	p.SQL(t, "CREATE TABLE kept AS SELECT 7 AS n")
	cfg := home(t, p)
	cfg.Data = p.DataDir
	s := open(t, cfg)
	running := func(want bool) {
		t.Helper()
		if is, err := s.Running(); err != nil || is != want {
			t.Fatalf("running: %v, %v, want %v", is, err, want)
		}
	}
	running(true)
	if err := s.StartAsItWas(within(t)); err != nil {
		t.Errorf("while it runs: %v", err)
	}
	if err := s.Stop(within(t), StopFast); err != nil {
		t.Fatal(err)
	}
	running(false)
	if c, err := s.Control(); err != nil || c.State != StateShutDown {
		t.Errorf("stopped as %s, %v", c.State, err)
	}
	if err := s.StartAsItWas(within(t)); err != nil {
		t.Fatal(err)
	}
	running(true)
	pgtest.Until(t, "it answers where it did", func(ctx context.Context) error {
		_, err := p.Text(ctx, "SELECT 1")
		return err
	})
	if got := p.SQL(t, "SELECT n FROM kept"); got != "7" {
		t.Errorf("got %s", got)
	}
	if got := p.SQL(t, "SHOW work_mem") + " " + p.SQL(t, "SHOW cluster_name"); got != "5MB " {
		t.Errorf("its settings have changed: %q", got)
	}
}

func TestOptsAreParsed(t *testing.T) {
	for text, want := range map[string][]string{
		"/usr/lib/postgresql/15/bin/postgres \"-D\" \"/var/lib/my data\" \"-c\" \"port=5433\"\n": {"/usr/lib/postgresql/15/bin/postgres", "-D", "/var/lib/my data", "-c", "port=5433"},
		"/usr/bin/postgres\n":        {"/usr/bin/postgres"},
		"":                           nil,
		"postgres \"-D\" \"x\"\n":    nil,
		"/bin/postgres \"-D\nx\"\n":  nil,
		"/bin/postgres \"-D\" \"x\n": nil,
	} {
		got, err := parseOpts(text)
		if !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}
