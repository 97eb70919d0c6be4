package notify

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

func receiver(t *testing.T, c Config) Receiver {
	t.Helper()
	c.Name = "pager"
	c = c.SetDefaults()
	if err := c.Validate([]string{"freeze"}); err != nil {
		t.Fatal(err)
	}
	r, err := New(vfs.OS(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var sample = Payload{Version: PayloadVersion, Cluster: "demo", ID: "01", Action: "freeze", Service: "ledger", Outcome: "done", Attempt: 1}

func TestWebhook(t *testing.T) {
	var got Payload
	answer := http.StatusOK
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.Header.Get("Tidegate-Id") != "01" || r.Header.Get("Authorization") != "Bearer x" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s with %v", r.Method, r.Header)
		}
		if answer == http.StatusFound {
			http.Redirect(w, r, "/elsewhere", answer)
			return
		}
		w.WriteHeader(answer)
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
	}))
	defer srv.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	hook := Webhook{URL: srv.URL, CA: ca, Headers: map[string]string{"Authorization": "Bearer x"}}
	r := receiver(t, Config{Webhook: hook})
	if err := r.Deliver(t.Context(), sample); err != nil || got.Service != "ledger" {
		t.Fatalf("%v, got %+v", err, got)
	}
	for _, answer = range []int{http.StatusFound, http.StatusBadGateway} {
		if err := r.Deliver(t.Context(), sample); tidegate.ClassOf(err) != tidegate.Transient {
			t.Errorf("answer %d took it: %v", answer, err)
		}
	}
	answer = http.StatusOK
	hook.CA = ""
	if err := receiver(t, Config{Webhook: hook}).Deliver(t.Context(), sample); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a receiver that nobody vouches for: %v", err)
	}
	if _, err := New(vfs.OS(), Config{Name: "x", Webhook: Webhook{URL: srv.URL, CA: ca + "x"}}); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("certificates that are not there: %v", err)
	}
}

func TestWebhookThatHangs(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer srv.Close()
	defer close(release)
	r := receiver(t, Config{Webhook: Webhook{URL: srv.URL}, Timeout: 100 * time.Millisecond})
	if err := r.Deliver(t.Context(), sample); tidegate.ClassOf(err) != tidegate.Transient {
		t.Errorf("%v", err)
	}
}

func TestProgram(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	run := func(script string) error {
		return receiver(t, Config{Exec: Exec{Command: []string{"/bin/sh", "-c", script}}, Timeout: time.Second}).Deliver(t.Context(), sample)
	}
	if err := run("cat > " + out + "; echo $TIDEGATE_ACTION $TIDEGATE_SERVICE $TIDEGATE_OUTCOME $TIDEGATE_ID >> " + out); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out)
	if err != nil || !strings.Contains(string(b), `"cluster":"demo"`) || !strings.HasSuffix(string(b), "freeze ledger done 01\n") {
		t.Errorf("%s, %v", b, err)
	}
	if err := run("echo no such pager; exit 3"); tidegate.ClassOf(err) != tidegate.Transient || !strings.Contains(err.Error(), "no such pager") {
		t.Errorf("%v", err)
	}
	if err := run("sleep 60"); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("%v", err)
	}
}

func TestConfig(t *testing.T) {
	for want, c := range map[string]Config{
		"name":              {Exec: Exec{Command: []string{"/bin/true"}}},
		"want either":       {Name: "a"},
		"webhook.url":       {Name: "a", Webhook: Webhook{URL: "ftp://x"}},
		"exec.command":      {Name: "a", Exec: Exec{Command: []string{"true"}}},
		"actions[0]":        {Name: "a", Exec: Exec{Command: []string{"/bin/true"}}, Actions: []string{"party"}},
		"services[0]":       {Name: "a", Exec: Exec{Command: []string{"/bin/true"}}, Services: []string{"No Name"}},
		"webhook: want eit": {Name: "a", Webhook: Webhook{URL: "http://x"}, Exec: Exec{Command: []string{"/bin/true"}}},
	} {
		if err := c.SetDefaults().Validate([]string{"freeze"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
	c := Config{Actions: []string{"freeze"}, Services: []string{"ledger"}}
	if !c.Wants("freeze", "ledger") || c.Wants("thaw", "ledger") || c.Wants("freeze", "other") || !c.Wants("freeze", "") {
		t.Error("the choice of actions and services is not obeyed")
	}
}
