package figure

import (
	"strings"

	"github.com/tidegate/tidegate/internal/config"
)

// ParseBytes reads 200M, 5G or 5GiB.
func ParseBytes(text string) (int64, error) {
	if n := len(text); n > 0 && strings.ContainsRune("KMGT", rune(text[n-1])) {
		text += "iB"
	}
	var b config.Bytes
	err := b.UnmarshalText([]byte(text))
	return int64(b), err
}
