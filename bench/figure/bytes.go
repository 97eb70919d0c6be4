package figure

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

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

// Human is a number of bytes as people read it.
func Human(n int64) string {
	if n >= 1<<30 {
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// Room refuses a file system that has fewer bytes free.
func Room(dir string, want int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	if free := int64(st.Bavail) * st.Bsize; free < want { //nolint:gosec // of one file system
		return fmt.Errorf("%s has %s free: want %s", dir, Human(free), Human(want))
	}
	return nil
}
