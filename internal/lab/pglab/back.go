package pglab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// TakeOver starts the standby daemon beside the old primary, and returns once the
// old primary follows the promoted server on its own data and shows rows of the
// clients that number at least due.
func (l *Lab) TakeOver(ctx context.Context, due int) error {
	if err := l.Proc("standby-p1").Start(); err != nil {
		return err
	}
	return l.Follows(ctx, "the old primary", l.Primary.Text, due)
}

// Follows waits until a server, asked by query, follows another and shows rows of the
// clients that number at least due.
func (l *Lab) Follows(ctx context.Context, who string, query func(context.Context, string) (string, error), due int) error {
	return l.Until(ctx, who+" to follow", func(ctx context.Context) error {
		got, err := query(ctx, fmt.Sprintf("SELECT pg_is_in_recovery(), count(*) >= %d FROM told", due))
		if err == nil && got != "t|t" {
			err = fmt.Errorf("it says %s", got)
		}
		return err
	})
}

// Quarantined is what was kept of the old primary's log that the stream went on without.
func (l *Lab) Quarantined() (wal.Summary, error) {
	var kept struct {
		Log wal.Summary `json:"log"`
	}
	found, err := filepath.Glob(filepath.Join(l.oldHome(), "quarantine", "*", "summary.json"))
	if err != nil || len(found) != 1 {
		return kept.Log, errors.Join(err, fmt.Errorf("quarantine of the old primary: %d summaries, want 1", len(found)))
	}
	b, err := os.ReadFile(found[0])
	if err != nil {
		return kept.Log, err
	}
	return kept.Log, json.Unmarshal(b, &kept)
}

// Failback moves the service back to the old primary by plan, once the gate would,
// and returns what the command printed, also beside an error.
func (l *Lab) Failback(ctx context.Context, reason string) (string, error) {
	args := append([]string{"--to", "p1", "--reason", reason}, append(lab.Overrides(), lab.Service)...)
	if err := l.Until(ctx, "a failback to be possible", func(ctx context.Context) error {
		_, err := l.Tidegate(ctx, append([]string{"failback", "--dry-run"}, args...)...)
		return err
	}); err != nil {
		return "", err
	}
	b, err := l.Tidegate(ctx, append([]string{"failback"}, args...)...)
	return string(b), err
}
