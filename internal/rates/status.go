package rates

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Status is what a daemon's status shows of its rates.
type Status struct {
	Dir   string `json:"dir"`
	Rates []Rate `json:"rates"`
	// Unknown are files in the directory that no daemon obeys.
	Unknown []string `json:"unknown_files,omitempty"`
	Error   string   `json:"error,omitempty"` // why the directory cannot be listed
}

// Rate is one limit.
type Rate struct {
	Name string `json:"name"`
	Unit Unit   `json:"unit"`
	// Limit is what is allowed each second; nil when there is no limit, 0 when
	// everything is stopped.
	Limit *int64 `json:"limit,omitempty"`
	// Since is the wall time at which Limit was found in the file, or found gone.
	Since time.Time `json:"since,omitzero"`
	// Error says why the file cannot be used. Limit is then the last good value.
	Error string `json:"error,omitempty"`
	// Waiting is how many are held back now, WaitedSeconds for how long
	// everybody has been, together, since the start.
	Waiting       int     `json:"waiting"`
	WaitedSeconds float64 `json:"waited_seconds"`
	Changes       uint64  `json:"changes"`
}

// Text says the limit as people read it.
func (r *Rate) Text() string {
	if r.Limit == nil {
		return r.Unit.Text(0, false)
	}
	return r.Unit.Text(*r.Limit, true)
}

// Status returns what is in force now, in the order in which New was given it.
func (r *Rates) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := Status{Dir: r.dir, Unknown: slices.Clone(r.unknown), Error: r.dirErr}
	for i := range r.files {
		f := &r.files[i]
		one := Rate{Name: f.limit.Name, Unit: f.limit.Unit, Since: f.since, Error: f.err, Changes: f.changes}
		if f.inForce.limited {
			one.Limit = new(f.inForce.rate)
		}
		waiting, waited := r.limiters[f.limit.Name].held()
		one.Waiting, one.WaitedSeconds = waiting, waited.Seconds()
		st.Rates = append(st.Rates, one)
	}
	return st
}

var (
	descLimit    = prometheus.NewDesc("tidegate_rates_limit", "What the operator's file allows each second; absent while there is no limit, 0 while everything is stopped.", []string{"rate", "unit"}, nil)
	descUnusable = prometheus.NewDesc("tidegate_rates_file_unusable", "1 while the operator's file cannot be used and the last good value stays.", []string{"rate"}, nil)
	descWaiting  = prometheus.NewDesc("tidegate_rates_waiting", "Callers held back by the limit now.", []string{"rate"}, nil)
	descWaited   = prometheus.NewDesc("tidegate_rates_waited_seconds_total", "Time for which callers were held back by the limit, added up.", []string{"rate"}, nil)
	descChanges  = prometheus.NewDesc("tidegate_rates_changes_total", "Changes of the limit since the start.", []string{"rate"}, nil)
)

// Describe implements [prometheus.Collector].
func (r *Rates) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descLimit, descUnusable, descWaiting, descWaited, descChanges} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (r *Rates) Collect(ch chan<- prometheus.Metric) {
	for _, one := range r.Status().Rates {
		if one.Limit != nil {
			ch <- prometheus.MustNewConstMetric(descLimit, prometheus.GaugeValue, float64(*one.Limit), one.Name, string(one.Unit))
		}
		unusable := 0.0
		if one.Error != "" {
			unusable = 1
		}
		ch <- prometheus.MustNewConstMetric(descUnusable, prometheus.GaugeValue, unusable, one.Name)
		ch <- prometheus.MustNewConstMetric(descWaiting, prometheus.GaugeValue, float64(one.Waiting), one.Name)
		ch <- prometheus.MustNewConstMetric(descWaited, prometheus.CounterValue, one.WaitedSeconds, one.Name)
		ch <- prometheus.MustNewConstMetric(descChanges, prometheus.CounterValue, float64(one.Changes), one.Name)
	}
}
