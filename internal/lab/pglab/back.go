package pglab

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/quarantine"
	"github.com/tidegate/tidegate/stores/postgres/server"
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
	bundles, err := quarantine.Find(l.oldHome())
	if err != nil {
		return wal.Summary{}, err
	}
	var found []server.Detail
	for _, b := range bundles {
		if b.Kind != quarantine.KindServerTail {
			continue
		}
		if b.State != quarantine.StateWhole {
			return wal.Summary{}, fmt.Errorf("%s is %s: %s", b.Path, b.State, b.Damage)
		}
		var d server.Detail
		if err := json.Unmarshal(b.Summary.Detail, &d); err != nil {
			return wal.Summary{}, fmt.Errorf("%s: %w", b.Path, err)
		}
		found = append(found, d)
	}
	if len(found) != 1 {
		return wal.Summary{}, fmt.Errorf("quarantine of the old primary: %d summaries, want 1", len(found))
	}
	return found[0].Log, nil
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
