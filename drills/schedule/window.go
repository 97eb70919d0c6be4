package schedule

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// window is blocked each week.
type window struct {
	text     string
	days     [7]bool // on which it begins; Sunday first
	from, to int     // minutes of the day; to is exclusive, and on the next day where it is not after from
	zone     *time.Location
}

const day = 24 * 60 // minutes

var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// parseWindow reads "DAYS HH:MM-HH:MM [ZONE]"; DAYS is daily, or days and ranges of days.
func parseWindow(text string, zone *time.Location) (window, error) {
	w := window{text: text, zone: zone}
	fields := strings.Fields(text)
	if len(fields) != 2 && len(fields) != 3 {
		return w, errors.New("want DAYS FROM-TO [ZONE], as in Mon-Fri 08:00-18:00 Europe/Berlin")
	}
	var errs []error
	for _, part := range strings.Split(fields[0], ",") {
		errs = append(errs, w.addDays(part))
	}
	from, to, ok := strings.Cut(fields[1], "-")
	if !ok {
		errs = append(errs, fmt.Errorf("times %q: want FROM-TO, as in 08:00-18:00", fields[1]))
	} else {
		var err error
		w.from, err = minuteOf(from)
		errs = append(errs, err)
		w.to, err = minuteOf(to)
		errs = append(errs, err)
		if w.from == day || w.from == w.to {
			errs = append(errs, fmt.Errorf("times %q: want two that differ; a whole day is 00:00-24:00", fields[1]))
		}
	}
	if len(fields) == 3 {
		var err error
		w.zone, err = zoneOf(fields[2])
		errs = append(errs, err)
	}
	return w, errors.Join(errs...)
}

func (w *window) addDays(part string) error {
	if strings.EqualFold(part, "daily") {
		w.days = [7]bool{true, true, true, true, true, true, true}
		return nil
	}
	first, last, ranged := strings.Cut(strings.ToLower(part), "-")
	if !ranged {
		last = first
	}
	from, to := slices.Index(dayNames, first), slices.Index(dayNames, last)
	if from < 0 || to < 0 {
		return fmt.Errorf("days %q: want daily, or some of Mon, Tue, Wed, Thu, Fri, Sat, Sun, as in Mon-Fri,Sun", part)
	}
	for d := from; ; d = (d + 1) % 7 {
		w.days[d] = true
		if d == to {
			return nil
		}
	}
}

func minuteOf(text string) (int, error) {
	h, m, ok := strings.Cut(text, ":")
	hour, err1 := strconv.ParseUint(h, 10, 8)
	minute, err2 := strconv.ParseUint(m, 10, 8)
	if !ok || err1 != nil || err2 != nil || len(h) != 2 || len(m) != 2 || minute > 59 || hour*60+minute > day {
		return 0, fmt.Errorf("time %q: want HH:MM, 00:00 to 24:00", text)
	}
	return int(hour*60 + minute), nil //nolint:gosec // at most a day
}

// covers reports whether at lies in the window.
func (w window) covers(at time.Time) bool { return !w.until(at).IsZero() }

// until is the end of the window that at lies in; zero: it lies in none.
func (w window) until(at time.Time) time.Time {
	if w.zone == nil {
		return time.Time{}
	}
	wall := wallOf(at, w.zone)
	midnight := wall.Truncate(24 * time.Hour)
	minute := int(wall.Sub(midnight) / time.Minute)
	length := (w.to - w.from + day) % day
	if length == 0 {
		length = day
	}
	for back := range 2 { // the one that began today, or yesterday
		began := midnight.AddDate(0, 0, -back)
		into := minute + back*day - w.from
		if w.days[began.Weekday()] && into >= 0 && into < length {
			over := began.Add(time.Duration(w.from+length) * time.Minute)
			end := instantOf(over, w.zone)
			if !end.After(at) { // the wall shows it again
				end = at.Add(over.Sub(wall))
			}
			return end
		}
	}
	return time.Time{}
}

// dates are blocked once.
type dates struct {
	text        string
	first, last time.Time // midnights on the wall; both days are blocked
}

func parseDates(text string) (d dates, err error) {
	d.text = text
	from, to, ranged := strings.Cut(text, "..")
	if !ranged {
		to = from
	}
	if d.first, err = time.Parse(time.DateOnly, from); err == nil {
		d.last, err = time.Parse(time.DateOnly, to)
	}
	switch {
	case err != nil:
		return d, errors.New("want a day as 2026-12-24, or days as 2026-12-24..2027-01-02")
	case d.last.Before(d.first):
		return d, errors.New("the last day comes before the first")
	}
	return d, nil
}

// chained bounds how many windows that follow one another are looked through.
const chained = 32

// blocked says why nothing begins at a time, and until when; empty: nothing blocks it.
func (t *Timetable) blocked(at time.Time) (why string, until time.Time) {
	for range chained {
		text, end := t.blockedOnce(at)
		if text == "" {
			return why, until
		}
		if why == "" {
			why = text
		}
		at, until = end, end
	}
	return why, until
}

func (t *Timetable) blockedOnce(at time.Time) (string, time.Time) {
	for _, d := range t.dates {
		wall := wallOf(at, t.zone)
		if end := d.last.AddDate(0, 0, 1); !wall.Before(d.first) && wall.Before(end) {
			return d.text, instantOf(end, t.zone)
		}
	}
	for _, w := range t.windows {
		if end := w.until(at); !end.IsZero() && end.After(at) {
			return w.text, end
		}
	}
	return "", time.Time{}
}
