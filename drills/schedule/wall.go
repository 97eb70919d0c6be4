package schedule

import "time"

// wallOf is what the clock on the wall of a zone shows at an instant, written as if it
// were UTC: there every time of the day comes once.
func wallOf(at time.Time, zone *time.Location) time.Time {
	_, offset := at.In(zone).Zone()
	return at.UTC().Add(time.Duration(offset) * time.Second)
}

// instantOf is the first instant at which the clock on the wall shows at least wall: where
// it is put forward over that, the instant at which it is. It never goes back while wall
// goes on.
func instantOf(wall time.Time, zone *time.Location) time.Time {
	// time.Date does not say which of two it returns, nor where it goes from a gap: it is
	// near, and the clock is put at one end of what it lies in.
	near := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), 0, zone)
	start, end := near.ZoneBounds()
	var first time.Time
	for _, from := range []time.Time{start.Add(-1), near, end} {
		_, offset := from.In(zone).Zone()
		at := wall.Add(-time.Duration(offset) * time.Second)
		if wallOf(at, zone).Equal(wall) && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	if !first.IsZero() {
		return first
	}
	for _, put := range []time.Time{start, end} {
		if !put.IsZero() && wallOf(put.Add(-1), zone).Before(wall) && wallOf(put, zone).After(wall) {
			return put.UTC()
		}
	}
	return near.UTC()
}
