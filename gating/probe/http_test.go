package probe_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/probe"
	"github.com/tidegate/tidegate/internal/config"
)

type file struct {
	Settings config.Section `yaml:"settings"`
}

func (f file) SetDefaults() file { return f }
func (f file) Validate() error   { return nil }

func section(t *testing.T, text string) config.Section {
	t.Helper()
	f, err := config.Parse[file]("test", []byte("settings: "+text))
	if err != nil {
		t.Fatal(err)
	}
	return f.Settings
}

func TestHTTP(t *testing.T) {
	var got []string
	good := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, r.Method+" "+r.Host+r.URL.Path+" "+r.Header.Get("X-N")+" "+string(body))
		if string(body) == "no 3" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer good.Close()
	at := strings.TrimPrefix(good.URL, "http://")
	c, err := probe.HTTP("gate-a", section(t, `{url: "http://route.invalid/w/{n}", body: "no {n}", headers: {X-N: "{n}"}}`))
	if err != nil {
		t.Fatal(err)
	}
	try := func(r probe.Request) (heard int, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r.Heard = func() { heard++ }
		return heard, c.Try(ctx, r)
	}
	if heard, err := try(probe.Request{Number: 1}); err == nil || heard != 0 || tidegate.ClassOf(err) != tidegate.Transient {
		t.Errorf("where nobody is: heard %d times, %v", heard, err)
	}
	if heard, err := try(probe.Request{Number: 2, At: at}); err != nil || heard != 1 {
		t.Errorf("at the endpoint: heard %d times, %v", heard, err)
	}
	if heard, err := try(probe.Request{Number: 3, At: at}); err == nil || heard != 1 || !strings.Contains(err.Error(), "status 503, want 200") {
		t.Errorf("a refusal: heard %d times, %v", heard, err)
	}
	// The name that clients use stays, whatever the address.
	if want := "POST route.invalid/w/2 2 no 2"; len(got) != 2 || got[0] != want {
		t.Errorf("it was asked %q, want first %q", got, want)
	}
	if _, err := probe.HTTP("", section(t, "{url: route, status: 99}")); err == nil || !strings.Contains(err.Error(), "settings.url: ") || !strings.Contains(err.Error(), "settings.status: ") {
		t.Errorf("mistakes: %v", err)
	}
}
