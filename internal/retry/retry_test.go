package retry

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate"
)

func TestBackoffDoublesUpToMax(t *testing.T) {
	b := Policy{First: time.Second, Max: 5 * time.Second, Rand: func() float64 { return 0.5 }}.Backoff()
	var got []time.Duration
	for range 5 {
		got = append(got, b.Next())
	}
	b.Reset()
	got = append(got, b.Next())
	ms := time.Millisecond
	if diff := cmp.Diff([]time.Duration{500 * ms, 1000 * ms, 2000 * ms, 2500 * ms, 2500 * ms, 500 * ms}, got); diff != "" {
		t.Error(diff)
	}
}

func TestDoAsksTheClass(t *testing.T) {
	transient := &tidegate.Error{Op: "dial", Class: tidegate.Transient, Err: errors.New("refused by the kernel")}
	for name, tc := range map[string]struct {
		errs  []error
		calls int
		want  error
	}{
		"success at once":      {[]error{nil}, 1, nil},
		"transient then good":  {[]error{transient, transient, nil}, 3, nil},
		"fenced stops":         {[]error{transient, tidegate.ErrFenced}, 2, tidegate.ErrFenced},
		"unclassified stops":   {[]error{errors.ErrUnsupported}, 1, errors.ErrUnsupported},
		"transient to the end": {nil, 4, transient},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second+time.Millisecond)
				defer cancel()
				calls := 0
				p := Policy{First: 2 * time.Second, Max: time.Minute, Rand: func() float64 { return 0.5 }}
				err := p.Do(ctx, func(context.Context) error {
					calls++
					if calls > len(tc.errs) {
						return transient
					}
					return tc.errs[calls-1]
				})
				if !errors.Is(err, tc.want) || calls != tc.calls {
					t.Errorf("%d calls, %v; want %d, %v", calls, err, tc.calls, tc.want)
				}
			})
		})
	}
}
