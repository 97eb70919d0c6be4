package gating

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
)

// The brake: an operator lets the primary run unprotected. The epoch records say
// so before any writer opens, in the same transaction that stores the brake and
// turns the service's arm switch off. It is lifted by hand only.

// OpenGate implements OperatorService.
func (s *operatorService) OpenGate(ctx context.Context, req *connect.Request[pb.OpenGateRequest]) (*connect.Response[pb.OpenGateResponse], error) {
	m := req.Msg
	if m.GetReason() == "" {
		return nil, misuse("open gate", m.GetService(), errors.New("reason: want one, it is recorded"))
	}
	changed := false
	err := s.change(ctx, func() error {
		v, svc, streams, err := s.ofService(ctx, "open gate", m.GetService(), m.GetStream())
		if err != nil {
			return err
		}
		tx := new(registry.Tx)
		brake := &registry.Brake{Reason: m.GetReason(), Actor: actor(ctx), Since: s.now().UTC()}
		var opened []string
		for _, st := range streams {
			did, err := s.brakeStream(tx, v, st, brake)
			if err != nil {
				return err
			}
			if did {
				opened = append(opened, string(st.Name))
			}
		}
		wasArmed := !svc.Value.Disarmed
		changed = len(opened) > 0 || wasArmed
		e := s.entry(ctx, ActionGateOpen, svc.Value.Name, m.GetReason(), fact("streams", "%s", strings.Join(opened, " ")), fact("armed", "%t -> false", wasArmed))
		e.Stream = tidegate.StreamName(m.GetStream())
		if !changed {
			e.Outcome = outcomeUnchanged
		}
		next := svc.Value
		next.Disarmed = true
		key := registry.ServiceKey(next.Name)
		_, err = s.store.Commit(ctx, tx.Unchanged(key, svc.Revision).Put(key, next).Audit(e))
		return err
	})
	if err != nil {
		return nil, err
	}
	if changed {
		s.log.Warn("gate opened by the brake: the primary runs unprotected", "service", m.GetService(), "stream", m.GetStream(), "reason", m.GetReason(), "actor", actor(ctx))
	}
	sv, err := s.serviceNow(ctx, tidegate.ServiceName(m.GetService()))
	return connect.NewResponse(&pb.OpenGateResponse{Service: sv, Changed: changed}), err
}

// brakeStream adds one stream's part to the transaction; false when there is nothing to change.
func (s *operatorService) brakeStream(tx *registry.Tx, v *registry.View, st registry.Stream, brake *registry.Brake) (did bool, err error) {
	e, ok := v.Epochs[st.ID]
	if !ok {
		return false, notFound("open gate", string(st.Name), "the stream has no epoch record; remove it and add it again, or rebuild the registry")
	}
	rec := e.Value
	key, streamKey := registry.EpochKey(st.ID), registry.StreamKey(st.ID)
	tx.Unchanged(key, e.Revision).Unchanged(streamKey, v.Streams[st.ID].Revision)
	if rec.Gate.State == fence.GateArmed || rec.Gate.State == fence.GateUnknown {
		if rec.ActiveEpoch == 0 && rec.State == fence.StateDemoted {
			// It never had a writer: the first one finds its gate open.
			rec = rec.Clone()
			rec.Gate.State = fence.GateDegraded
		} else if rec, err = rec.OpenGate(); err != nil {
			return false, &tidegate.Error{
				Op: "open gate", Subject: string(st.Name), Class: tidegate.Transient, Err: fmt.Errorf("a change of writer is under way (%s): %w", e.Value.State, tidegate.ErrConflict),
				Hint: "nobody releases anything while it lasts; look at `tidegate status` and open the gate once there is a writer",
			}
		}
		rec.Since = s.now().UnixNano()
		tx.Put(key, rec)
		did = true
	}
	if st.Brake == nil {
		st.Brake = brake
		tx.Put(streamKey, st)
		did = true
	}
	return did, nil
}

// ofService reads a service with all of its streams, or the one that is named.
func (s *operatorService) ofService(ctx context.Context, op, service, stream string) (*registry.View, registry.Entry[registry.Service], []registry.Stream, error) {
	v, err := s.store.Read(ctx)
	if err != nil {
		return nil, registry.Entry[registry.Service]{}, nil, err
	}
	svc, ok := v.Services[tidegate.ServiceName(service)]
	if !ok {
		return nil, svc, nil, notFound(op, service, "see `tidegate streams list`")
	}
	if stream == "" {
		return v, svc, v.StreamsOf(svc.Value.Name), nil
	}
	st, ok := v.Stream(svc.Value.Name, tidegate.StreamName(stream))
	if !ok {
		return nil, svc, nil, notFound(op, service+"/"+stream, "see `tidegate streams list`")
	}
	return v, svc, []registry.Stream{st.Value}, nil
}

// ArmGate implements OperatorService. It takes the brake off; the writer enforces
// the gate again and only then records it, as after any degradation.
func (s *operatorService) ArmGate(ctx context.Context, req *connect.Request[pb.ArmGateRequest]) (*connect.Response[pb.ArmGateResponse], error) {
	m := req.Msg
	changed := false
	err := s.change(ctx, func() error {
		v, svc, streams, err := s.ofService(ctx, "arm gate", m.GetService(), "")
		if err != nil {
			return err
		}
		tx := new(registry.Tx)
		var lifted []string
		for _, st := range streams {
			key := registry.StreamKey(st.ID)
			tx.Unchanged(key, v.Streams[st.ID].Revision)
			if st.Brake != nil {
				st.Brake = nil
				tx.Put(key, st)
				lifted = append(lifted, string(st.Name))
			}
		}
		changed = len(lifted) > 0 || svc.Value.Disarmed
		e := s.entry(ctx, ActionGateArm, svc.Value.Name, m.GetReason(), fact("streams", "%s", strings.Join(lifted, " ")), fact("armed", "%t -> true", !svc.Value.Disarmed))
		if !changed {
			e.Outcome = outcomeUnchanged
		}
		next := svc.Value
		next.Disarmed = false
		key := registry.ServiceKey(next.Name)
		_, err = s.store.Commit(ctx, tx.Unchanged(key, svc.Revision).Put(key, next).Audit(e))
		return err
	})
	if err != nil {
		return nil, err
	}
	if changed {
		s.log.Warn("brake lifted, arm switch on", "service", m.GetService(), "reason", m.GetReason(), "actor", actor(ctx))
	}
	sv, err := s.serviceNow(ctx, tidegate.ServiceName(m.GetService()))
	return connect.NewResponse(&pb.ArmGateResponse{Service: sv, Changed: changed}), err
}
