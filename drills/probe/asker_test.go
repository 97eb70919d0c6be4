package probe

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/internal/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// somewhere is a place with these values; those of addresses were given.
type somewhere map[string]string

func (s somewhere) Fill(text string) string { return Fill(text, s) }

func (s somewhere) Given(addr string) bool {
	if run := s["{run}"]; run != "" && strings.HasPrefix(addr, run+"/") {
		return true
	}
	for name, v := range s {
		if strings.HasPrefix(name, "{address:") && v == addr {
			return true
		}
	}
	return false
}

func (somewhere) Environment(more map[string]string) []string {
	env := []string{"PATH=" + os.Getenv("PATH")}
	for k, v := range more {
		env = append(env, k+"="+v)
	}
	return env
}

func (somewhere) Home() string { return "/" }

func of(srv *httptest.Server) string { return strings.TrimPrefix(srv.URL, "http://") }

// TestCanaryCutOff: a canary has failed when the clone did not take it in time or ended,
// and not when the drill was called off meanwhile; one that had no answer yet says no more.
func TestCanaryCutOff(t *testing.T) {
	for name, tc := range map[string]struct {
		cause   error
		outcome evidence.CheckOutcome
	}{
		"by the clone":    {Fault{errors.New("the program ended")}, evidence.CheckFailed},
		"by its operator": {context.Canceled, evidence.CheckUnknown},
		"by a signal":     {errors.New("interrupt signal received"), evidence.CheckUnknown},
	} {
		for _, answers := range []int{0, 1} {
			ctx, call := context.WithCancelCause(t.Context())
			asked := 0
			clone := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if asked++; asked > answers {
					call(tc.cause)
					<-r.Context().Done() // no answer before the asker has gone
				}
				http.Error(w, "not active", http.StatusServiceUnavailable)
			}))
			k := New(clock.System(), somewhere{"{address:http}": of(clone)}, nil)
			got, err := k.Canary(ctx, &Canary{Name: "one", Write: Ask{Timeout: time.Minute, HTTP: &HTTP{Method: http.MethodPost, URL: "http://{address:http}/", Status: http.StatusOK}}})
			k.Close()
			clone.Close()
			if got.Outcome != tc.outcome || !errors.Is(err, tc.cause) || strings.Contains(got.Why+err.Error(), "%!") || strings.Contains(got.Why, "not active") != (answers > 0) {
				t.Errorf("%s after %d answers: %+v, %v", name, answers, got, err)
			}
		}
	}
}

// TestBothOutputs: what a command says on either comes into one answer.
func TestBothOutputs(t *testing.T) {
	k := New(clock.System(), somewhere{"{canary}": "49"}, map[string]string{"OF": "the drill"})
	script := `[ "$OF" = "the drill" ] || exit 1; i=0; while [ $i -lt 50 ]; do echo out$i; echo err$i >&2; i=$((i+1)); done | cat`
	for _, last := range []string{"out{canary}", "err{canary}"} {
		if got, err := k.Ask(t.Context(), &Ask{Timeout: time.Minute, Command: &Command{Run: []string{"/bin/sh", "-c", script}, Contains: last}}); err != nil {
			t.Errorf("%s: %q, %v", last, got, err)
		}
	}
}

// TestRead: a whole answer comes, or none; what a command complains of is no part of it.
func TestRead(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/none" {
			http.Error(w, "none here", http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, strings.Repeat("line\n", 300_000)) // the client sees it
	}))
	defer srv.Close()
	k := New(clock.System(), somewhere{"{address:http}": of(srv)}, nil)
	defer k.Close()
	get := func(path string) *Ask {
		return new(Ask{HTTP: &HTTP{URL: "http://{address:http}" + path}}.WithDefaults())
	}
	run := func(script string, exit int) *Ask {
		return new(Ask{Command: &Command{Run: []string{"/bin/sh", "-c", script}, Exit: exit}}.WithDefaults())
	}
	holding := func(a *Ask, text string) *Ask {
		if a.HTTP != nil {
			a.HTTP.Contains = text
		} else {
			a.Command.Contains = text
		}
		return a
	}
	for name, tc := range map[string]struct {
		ask  *Ask
		max  int
		want int    // bytes
		err  string // of it
	}{
		"whole body":    {get("/"), 2 << 20, 1_500_000, ""},
		"too long":      {get("/"), 1 << 20, 0, "the answer has more than 1 MiB"},
		"another":       {get("/none"), 1 << 20, 0, "got 404 none here"},
		"whole output":  {run("seq 200000; echo wrong >&2", 0), 2 << 20, 1288895, ""},
		"output, long":  {run("seq 200000", 0), 1 << 20, 0, "the answer has more than 1 MiB"},
		"another exit":  {run("echo one; echo no such book >&2; exit 3", 0), 1 << 20, 0, "got exit 3: no such book"},
		"contains":      {holding(get("/"), "line"), 2 << 20, 1_500_000, ""},
		"contains not":  {holding(get("/"), "eur"), 2 << 20, 0, "got line"},
		"prints":        {holding(run("echo complete", 0), "complete"), 1 << 20, 9, ""},
		"prints not":    {holding(run("echo part; echo complete >&2", 0), "complete"), 1 << 20, 0, "got part"},
		"not by itself": {new(Ask{SQL: &SQL{Where: "host={run}", Query: "select 1"}}.WithDefaults()), 1, 0, "neither by HTTP nor by a command"},
	} {
		got, err := k.Read(t.Context(), tc.ask, tc.max)
		if len(got) != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: %d bytes, %v, want %d, %q", name, len(got), err, tc.want, tc.err)
		}
	}
}

// TestAsksItsPlaceOnly: neither a redirect nor an address of somebody else's is followed.
func TestAsksItsPlaceOnly(t *testing.T) {
	hits := 0
	live := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits++ }))
	defer live.Close()
	clone := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, live.URL, http.StatusTemporaryRedirect)
	}))
	defer clone.Close()
	k := New(clock.System(), somewhere{"{address:http}": of(clone), "{data}": of(live)}, nil)
	defer k.Close()
	_, err := k.Ask(t.Context(), &Ask{Timeout: time.Minute, HTTP: &HTTP{Method: http.MethodPost, URL: "http://{address:http}/", Body: "canary", Status: http.StatusOK}})
	if _, is := errors.AsType[Wrong](err); !is || hits > 0 {
		t.Errorf("redirected: %v, %d requests at the live service", err, hits)
	}
	for name, a := range map[string]Ask{
		"http": {HTTP: &HTTP{Method: http.MethodPost, URL: "http://{data}/"}},
		"sql":  {SQL: &SQL{Where: "postgres://{data}/bank", Query: "SELECT 1"}},
	} {
		a.Timeout = time.Minute
		if _, err := k.Ask(t.Context(), &a); err == nil || hits > 0 || !strings.Contains(err.Error(), "no address of the asked service's") {
			t.Errorf("%s: %v, %d requests at the live service", name, err, hits)
		}
	}
}

// TestCutAnswer: what may stand behind what is read of an answer is not known to be missing.
func TestCutAnswer(t *testing.T) {
	k := New(clock.System(), somewhere{}, nil)
	for contains, want := range map[string]evidence.CheckOutcome{"199999": evidence.CheckUnknown, "100000": evidence.CheckPassed} {
		a := Ask{Command: &Command{Run: []string{"/usr/bin/seq", "200000"}, Contains: contains}}.WithDefaults()
		if c := k.Check(t.Context(), "long", a.Kind(), &a); c.Outcome != want {
			t.Errorf("%s: %+v", contains, c)
		}
	}
}
