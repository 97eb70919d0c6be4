package apply

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/internal/pgtest"
)

// The warm server's data directory is damaged while it follows: what is wrong is
// said, nothing is made up for it, and once the home is moved aside, as the finding
// says, the server is restored from the base and shows what the primary has.
func TestDamagedDataDirectory(t *testing.T) {
	o := newOrigin(t, pgtest.Config{})
	for name, damage := range map[string]func(data string) error{
		"control file": func(data string) error {
			return os.WriteFile(filepath.Join(data, "global", "pg_control"), make([]byte, 8192), 0o600)
		},
		"relation map": func(data string) error { return os.Remove(filepath.Join(data, "global", "pg_filenode.map")) },
		"all of it":    os.RemoveAll,
	} {
		t.Run(name, func(t *testing.T) {
			w, n := newWarm(t, o)
			n.change(func() { n.follow = true })
			w.start()
			w.sameAt(n)
			w.end() // connector and server
			if err := damage(filepath.Join(w.cfg.Server.Home, "cluster", "data")); err != nil {
				t.Fatal(err)
			}
			w.start()
			o.Tool(t, "pgbench", "-n", "-t", "50")
			n.until("it to be said", func() bool { return n.finding != "" })
			if v, err := w.sql("SELECT 1"); err == nil {
				t.Errorf("it answers %s", v)
			}
			w.end()
			if err := os.Rename(w.cfg.Server.Home, w.cfg.Server.Home+"-damaged"); err != nil {
				t.Fatal(err)
			}
			w.start()
			pgtest.Until(t, "it to be restored", func(context.Context) error {
				v, err := w.sql("SELECT pg_is_in_recovery()")
				if err == nil && !strings.HasPrefix(v, "t") {
					err = errors.New("it does not follow")
				}
				return err
			})
			w.sameAt(n)
			w.complaints()
		})
	}
}
