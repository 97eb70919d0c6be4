package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/config"
)

// HTTPKind is the kind's name.
const HTTPKind = "http"

// HTTPSettings are a request that a good service answers with the expected status.
type HTTPSettings struct {
	URL     string            `yaml:"url"`     // "{n}" is replaced by the attempt's number
	Method  string            `yaml:"method"`  // default POST: a write, because only that proves the route
	Body    string            `yaml:"body"`    // "{n}" as above
	Headers map[string]string `yaml:"headers"` // "{n}" as above
	Status  int               `yaml:"status"`  // default 200
}

// SetDefaults fills what was left out.
func (s HTTPSettings) SetDefaults() HTTPSettings {
	if s.Method == "" {
		s.Method = http.MethodPost
	}
	if s.Status == 0 {
		s.Status = http.StatusOK
	}
	return s
}

// Validate reports every broken rule.
func (s HTTPSettings) Validate() error {
	var errs []error
	if u, err := url.Parse(s.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		errs = append(errs, config.Broken("url", "want http://host:port/path or https://...", s.URL))
	}
	if s.Status < 100 || s.Status > 599 {
		errs = append(errs, config.Broken("status", "want an HTTP status", s.Status))
	}
	return errors.Join(errs...)
}

// HTTP is the kind http: a request, whose method and body say what it proves.
func HTTP(_ string, settings config.Section) (Client, error) {
	s, err := config.ReadSection[HTTPSettings](settings)
	if err != nil {
		return nil, err
	}
	return &httpClient{
		s: s,
		// A kept connection would not notice a switch of the route.
		http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
	}, nil
}

type httpClient struct {
	s    HTTPSettings
	http *http.Client
}

// Try implements [Client].
func (c *httpClient) Try(ctx context.Context, r Request) error {
	if err := c.try(ctx, r); err != nil {
		return &tidegate.Error{Op: "probe", Subject: c.target(r.At), Class: tidegate.Transient, Err: err}
	}
	return nil
}

func (c *httpClient) target(at string) string {
	u, err := url.Parse(c.s.URL)
	if err != nil {
		return c.s.URL // it was valid when the settings were read
	}
	if at != "" {
		u.Host = at
	}
	return u.Redacted()
}

func (c *httpClient) try(ctx context.Context, r Request) error {
	fill := func(s string) string { return strings.ReplaceAll(s, "{n}", strconv.FormatUint(r.Number, 10)) }
	req, err := http.NewRequestWithContext(ctx, c.s.Method, fill(c.s.URL), strings.NewReader(fill(c.s.Body)))
	if err != nil {
		return err
	}
	if r.At != "" {
		req.URL.Host = r.At // the Host header stays the route's: a service may tell its names apart
	}
	for k, v := range c.s.Headers {
		req.Header.Set(k, fill(v))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if inner := (*url.Error)(nil); errors.As(err, &inner) {
			err = inner.Err // the URL is the error's subject already
		}
		return err
	}
	r.heard()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	if err == nil && resp.StatusCode != c.s.Status {
		err = fmt.Errorf("status %d, want %d", resp.StatusCode, c.s.Status)
	}
	return err
}
