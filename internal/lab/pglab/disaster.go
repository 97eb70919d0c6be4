package pglab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/pgrun"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// Level is the synchronous_commit that makes a commit wait for what a mode
// promises: docs/operating/postgresql.md.
func Level(m tidegate.Mode) string {
	if m == tidegate.ModeBounded {
		return "remote_write"
	}
	return "on"
}

// Promote kills the primary under load, and has its replica take its place, as a
// cluster manager does. Commits must wait for the standby site: its agent is frozen
// first, so that they stand still and the replica comes to have all that the other site
// has. One that lacks some of that is refused, and ought to be.
func (l *Lab) Promote(ctx context.Context) error {
	agent := l.Proc("agent-p1")
	if err := agent.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	err := l.Until(ctx, "the replica to have all of the primary's log", func(ctx context.Context) error {
		end, err := l.Primary.Text(ctx, "SELECT pg_current_wal_insert_lsn()")
		if err != nil {
			return err
		}
		got, err := l.Replica.Text(ctx, "SELECT pg_last_wal_receive_lsn()")
		if err == nil && got != end {
			err = fmt.Errorf("the log ends at %s, the replica has it to %s", end, got)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := l.Primary.Kill(); err != nil {
		return err
	}
	if err := agent.Signal(syscall.SIGCONT); err != nil {
		return err
	}
	// pg_promote(true) may cancel itself: its own snapshot conflicts with replay.
	if _, err := l.Replica.Query(ctx, "SELECT pg_promote(false)"); err != nil {
		return err
	}
	return l.Until(ctx, "the replica to be promoted", func(ctx context.Context) error {
		is, err := l.Replica.Text(ctx, "SELECT pg_is_in_recovery()")
		if err == nil && is != "f" {
			err = errors.New("it is in recovery")
		}
		return err
	})
}

// Takeover is a disaster that was survived.
type Takeover struct {
	Plan  *pb.Plan
	Text  string        // what `tidegate failover` printed
	Took  time.Duration // of `tidegate failover`
	RTO   time.Duration // from the kill to the first commit that a client was told of
	Pause time.Duration // the longest that all clients together waited between two commits
}

// Lose kills the primary site, fails over and returns once clients were told of
// commits at the other site, under an agent of its own.
func (l *Lab) Lose(ctx context.Context, c *Clients, reason string) (t Takeover, err error) {
	old, err := l.Writes(ctx, "p1", 0)
	if err != nil {
		return t, err
	}
	killed := time.Now()
	if err := l.KillSite(); err != nil {
		return t, err
	}
	return l.Survive(ctx, c, reason, old, killed)
}

// Survive fails over from a primary site that fell silent at a moment, under an
// epoch, once the gate's synthetic client has noticed, and returns as Lose does.
func (l *Lab) Survive(ctx context.Context, c *Clients, reason string, old tidegate.Epoch, silent time.Time) (t Takeover, err error) {
	if _, err := l.Noticed(ctx); err != nil {
		return t, err
	}
	asked := time.Now()
	c.Mark()
	if t.Text, t.Plan, err = l.Failover(ctx, reason); err != nil {
		return t, fmt.Errorf("%w\n%s", err, t.Text)
	}
	t.Took = time.Since(asked)
	if err := l.More(ctx, c, 20); err != nil {
		return t, err
	}
	t.RTO = c.First().Sub(silent)
	if _, err := l.Writes(ctx, "d1", old); err != nil {
		return t, err
	}
	if t.Plan, err = l.Redundant(ctx, t.Plan.GetId()); err != nil {
		return t, err
	}
	err = l.More(ctx, c, 50)
	t.Pause = c.Pause()
	return t, err
}

// Redundant waits until a failover's service is protected again, the last of its
// phases, and returns the plan.
func (l *Lab) Redundant(ctx context.Context, plan string) (p *pb.Plan, err error) {
	err = l.Until(ctx, "the service to be protected again", func(ctx context.Context) error {
		if p, err = l.Plan(ctx, plan); err != nil {
			return err
		}
		for _, x := range p.GetPhases().GetPhases() {
			if x.GetName() == "reconstitute" && x.GetAt() != nil {
				return nil
			}
		}
		return errors.New("its plan says that it is not")
	})
	return p, err
}

// Verdict is what a disaster has cost, and what of it was not as promised.
type Verdict struct {
	Loss   Loss
	Fork   wal.LSN
	Tail   wal.Summary // what the killed primary had beyond the fork
	Digest string      // of pgbench's tables at the fork, the same on both sides
	Claim  *pb.LossStatement
	Broken []error
}

// ackDelay is by how much the clients' clock may stretch the loss window: an answer
// that was released in time still has to be sent, proxied and read, by processes
// that share a few cores with all the others.
const ackDelay = 500 * time.Millisecond

// Judge stops the clients and compares what was promised with what is there. Once
// per lab; the primary site must be down.
func (l *Lab) Judge(ctx context.Context, c *Clients, mode tidegate.Mode, b tidegate.Bounds, plan *pb.Plan) (v Verdict, err error) {
	if err := c.Stop(); err != nil {
		return v, err
	}
	if v.Loss, err = l.Loss(ctx, c); err != nil {
		return v, err
	}
	if v.Fork, err = l.Fork(ctx); err != nil {
		return v, err
	}
	if v.Tail, err = l.Tail(v.Fork); err != nil {
		return v, err
	}
	twin, err := l.Recover(ctx, v.Fork)
	if err != nil {
		return v, err
	}
	v.Digest = twin.Digest
	v.demand(errors.Join(l.Equal(ctx, twin), l.Sound(ctx)))
	v.claims(mode, b, plan)
	return v, nil
}

// demand keeps what was not as promised.
func (v *Verdict) demand(err error) {
	if err != nil {
		v.Broken = append(v.Broken, err)
	}
}

func (v *Verdict) holds(ok bool, format string, args ...any) {
	if !ok {
		v.demand(fmt.Errorf(format, args...))
	}
}

// claims compares the plan's statement with the loss.
func (v *Verdict) claims(mode tidegate.Mode, b tidegate.Bounds, plan *pb.Plan) {
	v.holds(plan.GetOutcome() == pb.PlanOutcome_PLAN_OUTCOME_DONE, "the failover ended as %s", plan.GetOutcome())
	v.holds(v.Loss.Told > 0, "clients were told of no commit")
	v.holds(uint64(max(0, v.Loss.Lost)) <= v.Tail.Commits, "%d commits are lost, the old log has %d beyond the fork", v.Loss.Lost, v.Tail.Commits)
	if len(plan.GetStreams()) != 1 {
		v.holds(false, "the plan has %d streams", len(plan.GetStreams()))
		return
	}
	v.Claim = plan.GetStreams()[0].GetLoss()
	claim := v.Claim.GetBounds()
	switch v.Claim.GetKind() {
	case pb.LossKind_LOSS_KIND_ZERO:
		v.holds(v.Loss.Lost == 0, "zero loss is claimed, %d commits are lost that clients were told of", v.Loss.Lost)
	case pb.LossKind_LOSS_KIND_AT_MOST:
		v.holds(mode == tidegate.ModeBounded, "in mode %s a loss is claimed to be possible: %s", mode, v.Claim.GetWhy())
		v.holds(claim.GetRecords() <= b.Records && claim.GetWindow().AsDuration() <= b.Window, "more is claimed than the bounds: %v", claim)
		v.holds(int64(v.Loss.Lost) <= claim.GetRecords(), "%d commits are lost, at most %d are claimed", v.Loss.Lost, claim.GetRecords())
		v.holds(v.Loss.Over <= claim.GetWindow().AsDuration()+ackDelay, "commits were lost over %s, at most %s is claimed", v.Loss.Over, claim.GetWindow().AsDuration())
	case pb.LossKind_LOSS_KIND_UNKNOWN, pb.LossKind_LOSS_KIND_UNSPECIFIED:
		v.holds(false, "the loss is %s: %s", v.Claim.GetKind(), v.Claim.GetWhy())
	}
}

// Return starts what was killed again, the primary first: a site that has its
// power and its link back. The standby daemon beside the primary is [Lab.TakeOver]'s.
func (l *Lab) Return() error {
	if err := os.RemoveAll(l.File("p1", "rates")); err != nil {
		return err
	}
	if err := l.Primary.Start(); err != nil {
		return err
	}
	return l.Proc("agent-p1").Start()
}

// strangerPatience is for how long a client of the old primary waits.
const strangerPatience = 5 * time.Second

// Stranger is a client that knows no route and goes to the primary itself. A commit
// that it is told of is an error: the server has been replaced.
func (l *Lab) Stranger(ctx context.Context, level string) (got string, err error) {
	ctx, cancel := context.WithTimeout(ctx, strangerPatience)
	defer cancel()
	_, err = pgrun.Query(ctx, l.Primary.Conn("options=-c synchronous_commit="+level), "INSERT INTO told VALUES (-1, 1)")
	switch {
	case err == nil:
		return "it confirmed a commit", errors.New("the old primary confirmed a commit after the failover")
	case ctx.Err() != nil:
		return fmt.Sprintf("nothing within %s", strangerPatience), nil
	}
	return err.Error(), nil
}
