package lab

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

// Exposure is what an agent says of one stream at one moment, as its metrics
// have it. The zero value is not known.
type Exposure struct {
	Known   bool
	Records float64
	Bytes   float64
	Window  float64 // the loss window, in seconds
}

func (e Exposure) String() string {
	if !e.Known {
		return "unknown"
	}
	return fmt.Sprintf("%.0f records, %.0f B, %.0f ms", e.Records, e.Bytes, 1000*e.Window)
}

// within returns the bound that e passes, or nothing. There is no allowance:
// the agent subtracts numbers that are exact at one moment by one clock.
func (e Exposure) within(b tidegate.Bounds) (passed string) {
	switch {
	case !e.Known:
		return ""
	case e.Records > float64(b.Records):
		return fmt.Sprintf("%.0f records exposed, the bound is %d", e.Records, b.Records)
	case e.Bytes > float64(b.Bytes):
		return fmt.Sprintf("%.0f bytes exposed, the bound is %d", e.Bytes, b.Bytes)
	case e.Window > b.Window.Seconds():
		return fmt.Sprintf("a loss window of %gs, the bound is %s", e.Window, b.Window)
	}
	return ""
}

// parseExposure reads an agent's metrics and returns the exposure by stream.
// Metrics that are absent leave it unknown, as they are meant.
func parseExposure(r io.Reader) (map[string]Exposure, error) {
	out := map[string]Exposure{}
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
			"tidegate_agent_exposure_records":    &e.Records,
			"tidegate_agent_exposure_bytes":      &e.Bytes,
			"tidegate_agent_loss_window_seconds": &e.Window,
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
		e.Known = found[stream] == 3
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

// Witness samples agents' metrics and keeps what is worst. Methods may be called
// concurrently.
type Witness struct {
	bounds tidegate.Bounds
	client *http.Client

	mu      sync.Mutex
	samples int // in which exposure was known
	most    Exposure
	passed  []string // the first few times a bound was passed
}

const (
	sampleEvery = 40 * time.Millisecond
	passedMax   = 5
)

// NewWitness returns a witness that also keeps when bounds were passed.
func NewWitness(b tidegate.Bounds) *Witness {
	return &Witness{bounds: b, client: &http.Client{Transport: reached.Transport, Timeout: time.Second}}
}

// Watch samples one agent until ctx ends. An agent that is down or frozen says
// nothing, which is no finding.
func (w *Witness) Watch(ctx context.Context, agent, url string) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		if all, err := ScrapeExposure(ctx, w.client, url); err == nil {
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

// ScrapeExposure reads the metrics of an agent and returns the exposure by stream.
func ScrapeExposure(ctx context.Context, client *http.Client, url string) (map[string]Exposure, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("scrape %s: %s", url, res.Status)
	}
	return parseExposure(res.Body)
}

func (w *Witness) see(agent, stream string, e Exposure) {
	if !e.Known {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.samples++
	w.most.Known = true
	w.most.Records = max(w.most.Records, e.Records)
	w.most.Bytes = max(w.most.Bytes, e.Bytes)
	w.most.Window = max(w.most.Window, e.Window)
	if why := e.within(w.bounds); why != "" && len(w.passed) < passedMax {
		w.passed = append(w.passed, fmt.Sprintf("%s agent of %s, stream %s: %s", time.Now().UTC().Format("15:04:05.000"), agent, stream, why))
	}
}

// Seen returns the maxima, in how many samples exposure was known, and the first
// few times that a bound was passed.
func (w *Witness) Seen() (most Exposure, samples int, passed []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.most, w.samples, w.passed
}
