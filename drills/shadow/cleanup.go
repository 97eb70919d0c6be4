package shadow

import (
	"errors"

	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
)

// CleanUp ends and removes what drills that were killed have left in a scratch directory,
// and says what that was. It is refused while another drill runs there.
func CleanUp(fsys vfs.FS, clk clock.Clock, dir string) (found []evidence.LeftOver, err error) {
	s, err := openScratch(fsys, clk, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	return s.leftOvers()
}
