package archive

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestKeepByPeriods(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse("2006-01-02 15:04", s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	all := []string{
		"2026-03-31 23:59", "2026-04-01 00:00", "2026-05-10 10:10", "2026-05-10 10:50", "2026-05-10 11:05", "2026-05-11 03:00",
	}
	for name, tc := range map[string]struct {
		keep Keep
		want []string
	}{
		"everything":  {Keep{}, all},
		"last":        {Keep{Last: 2}, all[4:]},
		"hourly":      {Keep{Hourly: 3}, []string{all[3], all[4], all[5]}},
		"daily":       {Keep{Daily: 3}, []string{all[1], all[4], all[5]}},
		"weekly":      {Keep{Weekly: 2}, []string{all[4], all[5]}}, // the 10th of May is a Sunday
		"monthly":     {Keep{Monthly: 12}, []string{all[0], all[1], all[5]}},
		"all of them": {Keep{Last: 1, Hourly: 2, Monthly: 2}, []string{all[1], all[4], all[5]}},
	} {
		t.Run(name, func(t *testing.T) {
			var times []time.Time
			for _, s := range all {
				times = append(times, at(s).In(time.FixedZone("elsewhere", 7*3600)))
			}
			var got []string
			for i, stays := range tc.keep.Rule(times) {
				if stays {
					got = append(got, all[i])
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("kept %q, want %q", got, tc.want)
			}
		})
	}
}

// Thinning again, or after something older has gone, takes nothing more away.
func TestKeepIsStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := Keep{
			Last: rapid.IntRange(0, 3).Draw(t, "last"), Hourly: rapid.IntRange(0, 5).Draw(t, "hourly"), Daily: rapid.IntRange(0, 5).Draw(t, "daily"),
			Weekly: rapid.IntRange(0, 3).Draw(t, "weekly"), Monthly: rapid.IntRange(0, 3).Draw(t, "monthly"),
		}
		var times []time.Time
		for _, hours := range rapid.SliceOfN(rapid.IntRange(0, 5000), 1, 60).Draw(t, "hours") {
			times = append(times, time.Unix(int64(hours)*3600+1, 0))
		}
		var left []time.Time
		for i, stays := range k.Rule(times) {
			if stays {
				left = append(left, times[i])
			}
		}
		if !slices.ContainsFunc(left, func(at time.Time) bool { return at.Equal(slices.MaxFunc(times, time.Time.Compare)) }) {
			t.Fatalf("the newest is gone: %v of %v", left, times)
		}
		for i, stays := range k.Rule(left) {
			if !stays {
				t.Fatalf("%v goes from what was left", left[i])
			}
		}
	})
}
