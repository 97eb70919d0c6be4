package names

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/replication"
)

// answerMax bounds a configuration that Patroni sends.
const answerMax = 4 << 20

// patroni asks Patroni. Files are read at every attempt: secrets and certificates
// are replaced while we run.
type patroni struct {
	cfg     PatroniConfig
	timeout time.Duration
}

// Set implements [Driver]: the dynamic configuration gets the names among
// postgresql.parameters, unless it has them. Patroni's answer means that its store
// has taken them; the server follows in a moment, and where it does not, as where the
// local configuration of a node has a value of its own, which wins, SHOW tells.
func (p *patroni) Set(ctx context.Context, _ *replication.SQL, names string) error {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	client, err := p.client()
	if err != nil {
		return failed(Patroni, tidegate.Misuse, "", "%w", err)
	}
	defer client.CloseIdleConnections()
	now, err := p.call(ctx, client, http.MethodGet, nil)
	if err != nil {
		return err
	}
	if mode := now.mode(); mode != "" {
		return failed(Patroni, tidegate.Misuse,
			"take synchronous_mode out of Patroni's configuration (patronictl edit-config), or leave the stream open; see docs/operating/postgresql.md",
			"its synchronous_mode is %s: it sets the names itself, and only to members of its own cluster", mode)
	}
	if got, set := now.names(); got == names && (set || names == "") {
		return nil
	}
	var change dynamic
	change.PostgreSQL.Parameters = map[string]any{setting: names}
	got, err := p.call(ctx, client, http.MethodPatch, &change)
	if err != nil {
		return err
	}
	if took, _ := got.names(); took != names {
		return failed(Patroni, tidegate.Permanent, "look at patronictl show-config", "it took the change and has %q", took)
	}
	return nil
}

// setting is the parameter's name, in PostgreSQL and in Patroni.
const setting = "synchronous_standby_names"

// dynamic is what concerns us of Patroni's dynamic configuration.
type dynamic struct {
	SynchronousMode any `json:"synchronous_mode,omitempty"`
	PostgreSQL      struct {
		Parameters map[string]any `json:"parameters"`
	} `json:"postgresql"`
}

// mode is how synchronous_mode is on, "" when it is off: YAML and JSON have it as a
// boolean, as one of PostgreSQL's words for one, or as "quorum".
func (d *dynamic) mode() string {
	text := strings.ToLower(fmt.Sprint(d.SynchronousMode))
	switch text {
	case "<nil>", "false", "off", "no", "0", "":
		return ""
	}
	return text
}

func (d *dynamic) names() (names string, set bool) {
	v, set := d.PostgreSQL.Parameters[setting]
	if v == nil {
		return "", set
	}
	return fmt.Sprint(v), set
}

// call reads or changes the configuration; both answer with what it is then.
func (p *patroni) call(ctx context.Context, client *http.Client, method string, change *dynamic) (*dynamic, error) {
	var body io.Reader
	if change != nil {
		text, err := json.Marshal(change)
		if err != nil {
			return nil, failed(Patroni, tidegate.Permanent, "", "%w", err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(p.cfg.URL, "/")+"/config", body)
	if err != nil {
		return nil, failed(Patroni, tidegate.Misuse, "", "%w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if p.cfg.User != "" {
		secret, err := os.ReadFile(p.cfg.PasswordFile)
		if err != nil {
			return nil, failed(Patroni, tidegate.Misuse, "", "%w", err)
		}
		req.SetBasicAuth(p.cfg.User, strings.TrimRight(string(secret), "\r\n"))
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, failed(Patroni, tidegate.Transient, "is Patroni running, and is this its restapi.connect_address?", "%w", err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, answerMax))
	if err != nil {
		return nil, failed(Patroni, tidegate.Transient, "", "%s: %w", method, err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, refused(method, res)
	}
	var d dynamic
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, failed(Patroni, tidegate.Permanent, "is this Patroni's restapi.connect_address?", "%s: its answer is no configuration: %w", method, err)
	}
	return &d, nil
}

// refused explains a status.
func refused(method string, res *http.Response) error {
	class, hint := tidegate.Transient, "see Patroni's log"
	switch res.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		class, hint = tidegate.Misuse, "give user and password_file of Patroni's restapi.authentication, a client certificate if verify_client asks for one, and let this address in by restapi.allowlist"
	case http.StatusNotFound:
		class, hint = tidegate.Misuse, "is this Patroni's restapi.connect_address?"
	case http.StatusConflict:
		hint = "somebody else changed Patroni's configuration at the same moment; it is tried again"
	case http.StatusServiceUnavailable, http.StatusBadGateway:
		hint = "Patroni does not reach its store, or its cluster is not initialized"
	}
	return failed(Patroni, class, hint, "%s /config: %s", method, res.Status)
}

func (p *patroni) client() (*http.Client, error) {
	t := &http.Transport{}
	if strings.HasPrefix(p.cfg.URL, "https:") {
		cfg := &tls.Config{MinVersion: tls.VersionTLS12}
		if p.cfg.CA != "" {
			text, err := os.ReadFile(p.cfg.CA)
			if err != nil {
				return nil, err
			}
			cfg.RootCAs = x509.NewCertPool()
			if !cfg.RootCAs.AppendCertsFromPEM(text) {
				return nil, fmt.Errorf("%s: %w", p.cfg.CA, errors.New("no certificate in it"))
			}
		}
		if p.cfg.Cert != "" {
			pair, err := tls.LoadX509KeyPair(p.cfg.Cert, p.cfg.Key)
			if err != nil {
				return nil, err
			}
			cfg.Certificates = []tls.Certificate{pair}
		}
		t.TLSClientConfig = cfg
	}
	// The API redirects nobody; whoever does is not it, and must not get the password.
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, nil
}
