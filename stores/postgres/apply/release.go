package apply

import (
	"context"
	"fmt"
	"strings"

	"github.com/tidegate/tidegate"
)

// sameRelease refuses a base whose server was of another major release than the
// programs here: they could not run it, nor replay its log. base is empty when the
// base does not say.
func (c *Connector) sameRelease(ctx context.Context, base string) error {
	if base == "" {
		return nil
	}
	here, err := c.server.Release(ctx)
	if err != nil {
		return err
	}
	if majorOf(here) == majorOf(base) {
		return nil
	}
	return &tidegate.Error{
		Op: "restore base", Class: tidegate.Misuse,
		Err:  fmt.Errorf("the primary is of release %s, and the programs of this node are of %s: %w", base, here, tidegate.ErrUnsupported),
		Hint: "install the primary's major release here, and name its programs in bin_dir; a major upgrade of the primary needs one here, too, and a new generation",
	}
}

// majorOf is what a version begins with: 15 of "15.18 (Debian)", 18 of "18beta1".
func majorOf(version string) string {
	end := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		return version
	}
	return version[:end]
}
