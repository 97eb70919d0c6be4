package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tidegate/tidegate"
)

// exposure is what an agent says of one stream at one moment.
type exposure struct {
	known   bool
	records float64
	bytes   float64
	window  float64 // seconds
}

// within returns the bound that e passes, or nothing. There is no allowance:
// the agent subtracts numbers that are exact at one moment by one clock.
func (e exposure) within(b tidegate.Bounds) (passed string) {
	switch {
	case !e.known:
		return ""
	case e.records > float64(b.Records):
		return fmt.Sprintf("%.0f records exposed, the bound is %d", e.records, b.Records)
	case e.bytes > float64(b.Bytes):
		return fmt.Sprintf("%.0f bytes exposed, the bound is %d", e.bytes, b.Bytes)
	case e.window > b.Window.Seconds():
		return fmt.Sprintf("a loss window of %gs, the bound is %s", e.window, b.Window)
	}
	return ""
}

// parseExposure reads an agent's metrics and returns the exposure by stream.
// Metrics that are absent leave it unknown, as they are meant.
func parseExposure(r io.Reader) (map[string]exposure, error) {
	out := map[string]exposure{}
	found := map[string]int{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		name, labels, value, ok := sample(lines.Text())
		if !ok {
			continue
		}
		stream := label(labels, "stream")
		e := out[stream]
		field := map[string]*float64{
			"tidegate_agent_exposure_records":    &e.records,
			"tidegate_agent_exposure_bytes":      &e.bytes,
			"tidegate_agent_loss_window_seconds": &e.window,
		}[name]
		if field == nil {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil || stream == "" {
			return nil, fmt.Errorf("read metrics: line %q", lines.Text())
		}
		*field = v
		found[stream]++
		e.known = found[stream] == 3
		out[stream] = e
	}
	return out, lines.Err()
}

// sample takes apart `name{labels} value`; comments and samples without labels are not ok.
func sample(line string) (name, labels, value string, ok bool) {
	if strings.HasPrefix(line, "#") {
		return "", "", "", false
	}
	name, rest, ok := strings.Cut(line, "{")
	if !ok {
		return "", "", "", false
	}
	i := strings.LastIndexByte(rest, '}')
	if i < 0 {
		return "", "", "", false
	}
	return name, rest[:i], strings.TrimSpace(rest[i+1:]), true
}

// label finds a label's value. Names of streams need no escapes.
func label(labels, name string) string {
	for l := range strings.SplitSeq(labels, ",") {
		if v, ok := strings.CutPrefix(l, name+"="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return ""
}

// witness samples agents' metrics until its context ends and keeps what is
// worst. Methods may be called concurrently.
type witness struct {
	bounds tidegate.Bounds
	client *http.Client

	mu      sync.Mutex
	samples int // in which exposure was known
	most    exposure
	passed  []string // the first few times a bound was passed
}

const (
	sampleEvery = 40 * time.Millisecond
	passedMax   = 5
)

func newWitness(b tidegate.Bounds) *witness {
	return &witness{bounds: b, client: &http.Client{Timeout: time.Second}}
}

// watch samples one agent until ctx ends. An agent that is down or frozen says
// nothing, which is no finding.
func (w *witness) watch(ctx context.Context, agent, url string) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		if all, err := w.scrape(ctx, url); err == nil {
			for stream, e := range all {
				w.see(agent, stream, e)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (w *witness) scrape(ctx context.Context, url string) (map[string]exposure, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	res, err := w.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("scrape %s: %s", url, res.Status)
	}
	return parseExposure(res.Body)
}

func (w *witness) see(agent, stream string, e exposure) {
	if !e.known {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.samples++
	w.most.known = true
	w.most.records = max(w.most.records, e.records)
	w.most.bytes = max(w.most.bytes, e.bytes)
	w.most.window = max(w.most.window, e.window)
	if why := e.within(w.bounds); why != "" && len(w.passed) < passedMax {
		w.passed = append(w.passed, fmt.Sprintf("%s agent of %s, stream %s: %s", time.Now().UTC().Format("15:04:05.000"), agent, stream, why))
	}
}

func (w *witness) seen() (most exposure, samples int, passed []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.most, w.samples, w.passed
}
