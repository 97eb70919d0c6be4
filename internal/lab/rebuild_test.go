package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/lab"
)

// The gate's data is gone, etcd with it. What the standby nodes hold is enough to
// go on; nothing is claimed until a writer that lives has armed its gate; after
// that the primary site may be lost as ever.
func TestRebuild(t *testing.T) {
	s := layOut(t, lab.Plant{Primaries: 1})
	s.up(t)
	before := s.ends(t)
	gate, agent := s.Proc("gate"), s.Proc("agent-p1")
	gate.Kill()
	if err := os.RemoveAll(s.GateDir(0)); err != nil {
		t.Fatal(err)
	}
	s.flows(t, "transfers without a registry")

	// A writer that is held still arms nothing, so there is time to look.
	if err := agent.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := gate.Start(); err != nil {
		t.Fatal(err)
	}
	s.until(t, "the gate, empty", func(ctx context.Context) error {
		_, err := s.Tidegate(ctx, "streams", "list")
		return err
	})
	args := []string{"gate", "rebuild", "--reason", "test", "-o", "json"}
	for _, node := range s.Standbys() {
		args = append(args, "--from-standbys", s.APIAddr(node))
	}
	says(t, s.operate(t, 4, args[:len(args)-2]...), "did not answer and is not named as missing", "hint: ")
	s.operate(t, 0, append(args, "--dry-run")...)
	rebuilt := rebuiltEpochs(t, s.operate(t, 0, args...))
	for id, was := range before {
		if rebuilt[id] <= was.epoch {
			t.Errorf("stream %s: rebuilt at epoch %d, nodes have promised %d", id, rebuilt[id], was.epoch)
		}
	}
	s.operate(t, 0, "services", "add", "--rpo", "5s", "--rto", "30s", "--route", "route-1", lab.Service)
	claims(t, s, pb.GateState_GATE_STATE_UNKNOWN, pb.LossKind_LOSS_KIND_UNKNOWN)
	says(t, s.operate(t, 4, "failover", "--dry-run", lab.Service), "unknown", "--accept-loss")

	if err := agent.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	var highest tidegate.Epoch
	for _, e := range rebuilt {
		highest = max(highest, e)
	}
	s.flowsAbove(t, "transfers after the rebuild", highest-1)
	claims(t, s, pb.GateState_GATE_STATE_ARMED, pb.LossKind_LOSS_KIND_ZERO)

	s.failover(t)
	s.nothingLost(t)
	s.wholeLogs(t)
}

func rebuiltEpochs(t *testing.T, text string) map[tidegate.StreamID]tidegate.Epoch {
	t.Helper()
	var r pb.RebuildResponse
	if err := protojson.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	out := map[tidegate.StreamID]tidegate.Epoch{}
	for _, x := range r.GetStreams() {
		id, err := tidegate.ParseID(x.GetId())
		if err != nil {
			t.Fatal(err)
		}
		out[id] = tidegate.Epoch(x.GetEpoch().GetEpoch())
	}
	if len(out) != len(lab.Currencies) {
		t.Fatalf("rebuilt %d streams", len(out))
	}
	return out
}

// claims waits until every stream's gate is in a state and a failover now could
// claim a loss of a kind.
func claims(t *testing.T, s *stage, gate pb.GateState, loss pb.LossKind) {
	t.Helper()
	s.until(t, fmt.Sprintf("%s and %s", gate, loss), func(ctx context.Context) error {
		st, err := s.Status(ctx)
		if err != nil {
			return err
		}
		for _, svc := range st.GetServices() {
			for _, x := range svc.GetStreams() {
				if got := x.GetView().GetEpoch().GetGate().GetState(); got != gate {
					return fmt.Errorf("%s: %s", x.GetView().GetName(), got)
				}
			}
			if got := svc.GetLossIfNow().GetKind(); got != loss {
				return fmt.Errorf("%s: %s", got, svc.GetLossIfNow().GetWhy())
			}
		}
		if len(st.GetServices()) == 0 {
			return errors.New("no services")
		}
		return nil
	})
}
