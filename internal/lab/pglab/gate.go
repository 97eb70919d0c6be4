package pglab

import (
	"context"
	"fmt"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/agent"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/lab"
)

// Gate sets the stream's gate and returns once the record says so.
func (l *Lab) Gate(ctx context.Context, mode tidegate.Mode, b tidegate.Bounds) error {
	args := []string{"gate", "set", "--reason", "the base is there", "--mode", string(mode)}
	want := pb.Mode_MODE_SYNC
	if mode == tidegate.ModeBounded {
		args = append(args, "--window", b.Window.String(), "--records", fmt.Sprint(b.Records))
		want = pb.Mode_MODE_BOUNDED
	}
	if _, err := l.Tidegate(ctx, append(args, lab.Service+"/"+Stream)...); err != nil {
		return err
	}
	return l.Armed(ctx, want)
}

// Armed waits until the record says that the gate is armed in a mode.
func (l *Lab) Armed(ctx context.Context, want pb.Mode) error {
	return l.Until(ctx, "the record to say so", func(ctx context.Context) error {
		st, err := l.Status(ctx)
		if err != nil {
			return err
		}
		for _, svc := range st.GetServices() {
			for _, x := range svc.GetStreams() {
				g := x.GetView().GetEpoch().GetGate()
				if g.GetState() == pb.GateState_GATE_STATE_ARMED && g.GetMode() == want {
					return nil
				}
				err = fmt.Errorf("it says %s %s", g.GetState(), g.GetMode())
			}
		}
		return err
	})
}

// Writes waits until a machine's agent writes the stream in an epoch above one.
func (l *Lab) Writes(ctx context.Context, machine string, above tidegate.Epoch) (e tidegate.Epoch, err error) {
	err = l.Until(ctx, "the agent of "+machine+" to write", func(ctx context.Context) error {
		var st agent.Status
		if err := lab.GetJSON(ctx, l.AgentURL(machine)+"/status", &st); err != nil {
			return err
		}
		for _, x := range st.Streams {
			if x.State == agent.StateWriting && x.Epoch > above {
				e = x.Epoch
				return nil
			}
			err = fmt.Errorf("it is %s in epoch %s", x.State, x.Epoch)
		}
		return err
	})
	return e, err
}
