package lab

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
)

// KillSite is a power cut as far as processes go: nothing gets a chance to say
// goodbye. Processes of the site that are down already stay so.
func (l *Lab) KillSite(site string) {
	for _, p := range l.Procs(site) {
		_ = p.Signal(syscall.SIGKILL) // all at once first; the next loop finds out
	}
	for _, p := range l.Procs(site) {
		p.Kill()
	}
}

// FreezeSite first cuts the site off: its agents stop, so nothing crosses any
// more while the service goes on for cutOff and answers its clients within the
// bounds. Then everything stops in its tracks: connections stay open, nothing is
// answered, and everything will go on as if nothing had been. Every process of
// the site must be running.
func (l *Lab) FreezeSite(ctx context.Context, site string, cutOff time.Duration) error {
	for _, agents := range []bool{true, false} {
		for _, p := range l.Procs(site) {
			if strings.HasPrefix(p.Name, "agent-") != agents {
				continue
			}
			if err := p.Signal(syscall.SIGSTOP); err != nil {
				return err
			}
		}
		if agents {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(cutOff):
			}
		}
	}
	return nil
}

// ThawSite lets a frozen site go on.
func (l *Lab) ThawSite(site string) error {
	for _, p := range l.Procs(site) {
		if err := p.Signal(syscall.SIGCONT); err != nil {
			return err
		}
	}
	return nil
}

// Status asks the gate. A verdict other than safe is not an error.
func (l *Lab) Status(ctx context.Context) (*pb.StatusResponse, error) {
	b, err := l.Tidegate(ctx, "status", "-o", "json")
	var exit *ExitError
	if err != nil && (!errors.As(err, &exit) || len(b) == 0) {
		return nil, err
	}
	st := &pb.StatusResponse{}
	return st, decode(b, st)
}

// Noticed waits until the gate's synthetic client has seen that something is
// wrong, as an operator does who is called because of it, and returns what.
func (l *Lab) Noticed(ctx context.Context) (what string, err error) {
	err = l.Until(ctx, "the gate to notice", func(ctx context.Context) error {
		st, err := l.Status(ctx)
		if err != nil {
			return err
		}
		for _, svc := range st.GetServices() {
			if p := svc.GetProbe(); p.GetEnabled() && !p.GetGood() {
				what = p.GetError()
				return nil
			}
		}
		return errors.New("synthetic writes still succeed")
	})
	return what, err
}

// Overrides are the flags against the rules that a lab cannot meet: nothing was
// rehearsed, and its nodes' disks have not been watched for the minute that a
// forecast takes.
func Overrides() []string {
	return []string{"--override", "drill-fresh=a lab leaves no evidence", "--override", "capacity=the nodes have just started"}
}

// MayFailOver asks the gate whether a failover would be begun now, and changes
// nothing. Besides a rule that refuses, the error may be that no gate answers.
func (l *Lab) MayFailOver(ctx context.Context) error {
	_, err := l.Tidegate(ctx, append([]string{"failover", "--dry-run", "--reason", "lab"}, append(Overrides(), Service)...)...)
	return err
}

// Failover runs `tidegate failover` of the service to its end and returns what
// it printed, also beside an error, and the plan as it stands afterwards.
func (l *Lab) Failover(ctx context.Context, reason string) (string, *pb.Plan, error) {
	b, err := l.Tidegate(ctx, append([]string{"failover", "--reason", reason}, append(Overrides(), Service)...)...)
	text := string(b)
	if err != nil {
		return text, nil, err
	}
	first, _, _ := strings.Cut(text, "\n")
	id, ok := strings.CutPrefix(first, "plan ")
	id, _, ok2 := strings.Cut(id, ":")
	if !ok || !ok2 {
		return text, nil, fmt.Errorf("failover: no plan in %q", first)
	}
	plan, err := l.Plan(ctx, id)
	return text, plan, err
}

// Plan reads a plan from the gate.
func (l *Lab) Plan(ctx context.Context, id string) (*pb.Plan, error) {
	b, err := l.Tidegate(ctx, "plan", "show", "-o", "json", id)
	if err != nil {
		return nil, err
	}
	plan := &pb.Plan{}
	return plan, decode(b, plan)
}

// Plans lists the gate's plans, newest first.
func (l *Lab) Plans(ctx context.Context) ([]*pb.Plan, error) {
	b, err := l.Tidegate(ctx, "plan", "list", "-o", "json")
	if err != nil {
		return nil, err
	}
	list := &pb.ListPlansResponse{}
	err = decode(b, list)
	return list.GetPlans(), err
}

func decode(b []byte, into proto.Message) error {
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, into)
}
