package agent

import (
	"os"
	"strings"
)

// BootID returns the kernel's id of this boot of this machine, or "" when it
// gives none; then no earlier run is ever taken for dead.
func BootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
