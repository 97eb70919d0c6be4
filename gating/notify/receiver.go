package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

// PayloadVersion is the version of the JSON form of [Payload]. Fields are added
// without a new one.
const PayloadVersion = 1

// Payload is what a receiver gets.
type Payload struct {
	Version int               `json:"version"` // PayloadVersion
	Cluster string            `json:"cluster"`
	ID      string            `json:"id"` // of the audit entry: the same for every attempt
	At      time.Time         `json:"at"`
	Actor   string            `json:"actor"`
	Action  string            `json:"action"`
	Service string            `json:"service,omitempty"`
	Stream  string            `json:"stream,omitempty"`
	Reason  string            `json:"reason,omitempty"`
	Outcome string            `json:"outcome"`
	Detail  map[string]string `json:"detail,omitempty"`
	Attempt int               `json:"attempt"` // from 1, of this gate
}

// Receiver takes entries. Deliver returns nil once the receiver has taken the
// payload; after an error it may have. It returns within the configured timeout,
// or sooner when ctx ends.
type Receiver interface {
	Deliver(ctx context.Context, p Payload) error
}

// New makes a receiver; cfg must be valid. It reads the file of certificates.
func New(fsys vfs.FS, cfg Config) (Receiver, error) {
	if len(cfg.Exec.Command) > 0 {
		return &program{cfg: cfg}, nil
	}
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
		MaxIdleConns: 1, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: cfg.Timeout, ResponseHeaderTimeout: cfg.Timeout,
	}
	if cfg.Webhook.CA != "" {
		pem, err := readFile(fsys, cfg.Webhook.CA)
		if err == nil {
			t.TLSClientConfig.RootCAs = x509.NewCertPool()
			if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
				err = errors.New("no certificate in it")
			}
		}
		if err != nil {
			return nil, &tidegate.Error{Op: "read certificates of receiver", Subject: cfg.Name, Class: tidegate.Misuse, Err: fmt.Errorf("%s: %w", cfg.Webhook.CA, err)}
		}
	}
	return &webhook{cfg: cfg, client: &http.Client{
		Transport: t,
		// A redirect would send what is told here to somebody whom nobody configured.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// certificatesMax bounds the file of certificates, in bytes.
const certificatesMax = 1 << 20

func readFile(fsys vfs.FS, path string) (b []byte, err error) {
	f, err := fsys.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fs.ErrNotExist
		}
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(io.LimitReader(f, certificatesMax))
}

type webhook struct {
	cfg    Config
	client *http.Client
}

// answerMax bounds what is kept of a receiver's answer or output, in bytes.
const answerMax = 4096

// Deliver implements [Receiver]: 2xx takes the payload, anything else does not.
func (w *webhook) Deliver(ctx context.Context, p Payload) error {
	body, err := json.Marshal(p)
	if err != nil {
		return w.cfg.failed(err)
	}
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.cfg.Webhook.URL, bytes.NewReader(body))
	if err != nil {
		return w.cfg.failed(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "tidegate")
	for k, v := range w.cfg.Webhook.Headers {
		req.Header.Set(k, v)
	}
	req.Header.Set("Tidegate-Id", p.ID)
	resp, err := w.client.Do(req)
	if err != nil {
		return w.cfg.failed(err)
	}
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, answerMax)) // for the error text only
	if err := resp.Body.Close(); err != nil {
		return w.cfg.failed(err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return w.cfg.failed(fmt.Errorf("answered %s: %s", resp.Status, oneLine(string(answer))))
	}
	return nil
}

func (c Config) failed(err error) error {
	return &tidegate.Error{Op: "notify", Subject: c.Name, Class: tidegate.Transient, Err: err}
}

// oneLine shortens an answer to what a log line and an audit entry can hold.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "..."
	}
	return s
}

type program struct{ cfg Config }

// Deliver implements [Receiver]: exit 0 takes the payload. A program that hangs is
// killed with everything it started.
func (e *program) Deliver(ctx context.Context, p Payload) error {
	in, err := json.Marshal(p)
	if err != nil {
		return e.cfg.failed(err)
	}
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, e.cfg.Exec.Command[0], e.cfg.Exec.Command[1:]...)
	out := &tail{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), out, out
	cmd.Env = append(os.Environ(), "TIDEGATE_ID="+p.ID, "TIDEGATE_ACTION="+p.Action, "TIDEGATE_SERVICE="+p.Service, "TIDEGATE_OUTCOME="+p.Outcome)
	// A group of its own, so that what the program started dies with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// A grandchild may have left the group and keep the pipe open: do not wait for it.
	cmd.WaitDelay = time.Second
	if err = cmd.Run(); err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("killed after %s: %w", e.cfg.Timeout, ctx.Err())
	}
	if text := oneLine(string(out.b)); text != "" {
		err = fmt.Errorf("%w; it printed: %s", err, text)
	}
	return e.cfg.failed(err)
}

// tail keeps the first answerMax bytes; the rest counts as accepted, so that a
// chatty program is not stopped by a full pipe.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p[:min(len(p), answerMax-len(t.b))]...)
	return len(p), nil
}
