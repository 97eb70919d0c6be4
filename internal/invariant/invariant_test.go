package invariant_test

import (
	"errors"
	"testing"

	"github.com/tidegate/tidegate/internal/invariant"
)

func panics(f func()) (said any) {
	defer func() { said = recover() }()
	f()
	return nil
}

func TestMust(t *testing.T) {
	cause := errors.New("cause")
	tests := map[string]struct {
		call func()
		want any
	}{
		"true holds":    {func() { invariant.Must(true, "x") }, nil},
		"false panics":  {func() { invariant.Must(false, "end %d", 7) }, "invariant broken: end 7"},
		"nil holds":     {func() { invariant.MustNil(nil, "x") }, nil},
		"error panics":  {func() { invariant.MustNil(cause, "parse") }, "invariant broken: parse: cause"},
		"value passes":  {func() { _ = invariant.MustGet(1, nil) }, nil},
		"value refuses": {func() { _ = invariant.MustGet(1, cause) }, "invariant broken: value of type int: cause"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := panics(tt.call); got != tt.want {
				t.Errorf("panic %v, want %v", got, tt.want)
			}
		})
	}
}
