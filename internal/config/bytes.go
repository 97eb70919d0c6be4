package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is a size in a file: "64MiB", "512KiB", "4096" (plain bytes). Only
// binary units are accepted, because a limit that is 5 % off is a wrong limit.
type Bytes int64

var units = []struct {
	suffix string
	factor int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (b *Bytes) UnmarshalText(text []byte) error {
	digits, factor := string(text), int64(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(digits, u.suffix); ok {
			digits, factor = strings.TrimSpace(rest), u.factor
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/factor {
		return fmt.Errorf("want a size such as 4096, 512KiB, 64MiB or 2GiB (got %q)", text)
	}
	*b = Bytes(n * factor)
	return nil
}

// MarshalText implements [encoding.TextMarshaler].
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// String has the largest unit that divides b exactly.
func (b Bytes) String() string {
	for _, u := range units {
		if b != 0 && int64(b)%u.factor == 0 && u.factor > 1 {
			return strconv.FormatInt(int64(b)/u.factor, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}
