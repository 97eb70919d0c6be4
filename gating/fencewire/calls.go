package fencewire

import (
	"fmt"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
)

// FenceRequestMessage converts a fence request.
func FenceRequestMessage(r fence.FenceRequest) *pb.FenceRequest {
	return &pb.FenceRequest{StreamId: api.IDText(r.Stream), Epoch: uint64(r.Epoch), Holder: api.IDText(r.Holder), Attested: r.Attested}
}

// FenceRequest converts back.
func FenceRequest(m *pb.FenceRequest) (r fence.FenceRequest, err error) {
	r.Epoch, r.Attested = tidegate.Epoch(m.GetEpoch()), m.GetAttested()
	if r.Stream, err = api.RequireID("stream id", m.GetStreamId()); err != nil {
		return r, err
	}
	if r.Holder, err = api.RequireID("holder", m.GetHolder()); err != nil {
		return r, err
	}
	if r.Epoch == 0 {
		return r, fmt.Errorf("epoch 0: want one from 1")
	}
	return r, nil
}

// FenceReplyMessage converts a node's answer to a fence.
func FenceReplyMessage(r fence.FenceReply) *pb.FenceResponse {
	m := &pb.FenceResponse{
		Node: string(r.Member.Node), Incarnation: api.IDText(r.Member.Incarnation), Refused: r.Refused,
		Promise: PromiseMessage(r.Promise), History: HistoryMessage(r.History), Durable: api.LogPosMessage(r.Durable),
		CommitSeq: uint64(r.Commit), Limbo: r.Limbo, Beacon: EvidenceMessage(r.Evidence),
	}
	if r.Leased > 0 {
		m.Leased = durationpb.New(r.Leased)
	}
	return m
}

// EvidenceMessage converts what beacons tell; nothing known is nil.
func EvidenceMessage(e fence.Evidence) *pb.BeaconEvidence {
	if e == (fence.Evidence{}) {
		return nil
	}
	m := &pb.BeaconEvidence{}
	if e.ReleasedKnown {
		m.ReleasedBeyond = &e.Beyond
	}
	if e.BlindKnown {
		m.BlindWindow = durationpb.New(e.Blind)
	}
	return m
}

// Evidence converts back; nil knows nothing.
func Evidence(m *pb.BeaconEvidence) (e fence.Evidence, err error) {
	if m != nil && m.ReleasedBeyond != nil {
		e.ReleasedKnown, e.Beyond = true, m.GetReleasedBeyond()
	}
	if m.GetBlindWindow() != nil {
		e.BlindKnown, e.Blind = true, m.GetBlindWindow().AsDuration()
	}
	if e.Beyond < 0 || e.Blind < 0 {
		return e, fmt.Errorf("beacon: %d records beyond, blind for %s: want none negative", e.Beyond, e.Blind)
	}
	return e, nil
}

// FenceReply converts back; stream is the one that was asked about.
func FenceReply(stream tidegate.StreamID, m *pb.FenceResponse) (r fence.FenceReply, err error) {
	r = fence.FenceReply{
		Stream: stream, Refused: m.GetRefused(), Commit: tidegate.Seq(m.GetCommitSeq()), Limbo: m.GetLimbo(), Leased: m.GetLeased().AsDuration(),
	}
	if r.Leased < 0 {
		return r, fmt.Errorf("leased for %s: want none or a positive span", r.Leased)
	}
	if r.Member, err = Member(&pb.Member{Node: m.GetNode(), Incarnation: m.GetIncarnation()}); err != nil {
		return r, err
	}
	if r.Promise, err = Promise(m.GetPromise()); err != nil {
		return r, err
	}
	if r.History, err = History(m.GetHistory()); err != nil {
		return r, err
	}
	if r.Evidence, err = Evidence(m.GetBeacon()); err != nil {
		return r, err
	}
	r.Durable, err = api.LogPos(m.GetDurable())
	return r, err
}

// AdoptRequestMessage converts an adopt request; the caller adds the addresses.
func AdoptRequestMessage(r fence.AdoptRequest) *pb.AdoptRequest {
	return &pb.AdoptRequest{
		StreamId: api.IDText(r.Stream), Epoch: uint64(r.Epoch), Holder: api.IDText(r.Holder),
		History: HistoryMessage(r.History), Head: api.LogPosMessage(r.Head), Source: string(r.Source),
		Reason: r.Reason, Unclean: r.Unclean,
	}
}

// AdoptRequest converts back.
func AdoptRequest(m *pb.AdoptRequest) (r fence.AdoptRequest, err error) {
	r = fence.AdoptRequest{
		Epoch: tidegate.Epoch(m.GetEpoch()), Source: tidegate.NodeName(m.GetSource()), Reason: m.GetReason(), Unclean: m.GetUnclean(),
	}
	if r.Stream, err = api.RequireID("stream id", m.GetStreamId()); err != nil {
		return r, err
	}
	if r.Holder, err = api.RequireID("holder", m.GetHolder()); err != nil {
		return r, err
	}
	if r.History, err = History(m.GetHistory()); err != nil {
		return r, err
	}
	if r.Epoch == 0 {
		return r, fmt.Errorf("epoch 0: want one from 1")
	}
	if r.Reason != fence.ReasonSuperseded && r.Reason != fence.ReasonDiverged {
		return r, fmt.Errorf("reason %q: want %s or %s", r.Reason, fence.ReasonSuperseded, fence.ReasonDiverged)
	}
	r.Head, err = api.LogPos(m.GetHead())
	return r, err
}

// AdoptReplyMessage converts a node's final answer to an adopt.
func AdoptReplyMessage(r fence.AdoptReply) *pb.AdoptResponse {
	return &pb.AdoptResponse{
		Node: string(r.Member.Node), Incarnation: api.IDText(r.Member.Incarnation), Adopted: r.Adopted, Refused: !r.Adopted,
		Epoch: uint64(r.Epoch), Holder: api.IDText(r.Holder), Promise: PromiseMessage(r.Promise),
		Durable: api.LogPosMessage(r.Durable), Class: string(r.Class), Why: r.Why,
	}
}

// AdoptReply converts back; stream is the one that was asked about.
func AdoptReply(stream tidegate.StreamID, m *pb.AdoptResponse) (r fence.AdoptReply, err error) {
	r = fence.AdoptReply{
		Stream: stream, Adopted: m.GetAdopted(), Epoch: tidegate.Epoch(m.GetEpoch()),
		Class: tidegate.Class(m.GetClass()), Why: m.GetWhy(),
	}
	if r.Member, err = Member(&pb.Member{Node: m.GetNode(), Incarnation: m.GetIncarnation()}); err != nil {
		return r, err
	}
	if r.Holder, err = api.ParseID("holder", m.GetHolder()); err != nil {
		return r, err
	}
	if r.Promise, err = Promise(m.GetPromise()); err != nil {
		return r, err
	}
	r.Durable, err = api.LogPos(m.GetDurable())
	return r, err
}

// PromoteRequestMessage converts a promote request.
func PromoteRequestMessage(r fence.PromoteRequest) *pb.PromoteRequest {
	return &pb.PromoteRequest{
		StreamId: api.IDText(r.Stream), Epoch: uint64(r.Epoch), Holder: api.IDText(r.Holder), Head: api.LogPosMessage(r.Head),
	}
}

// PromoteRequest converts back.
func PromoteRequest(m *pb.PromoteRequest) (r fence.PromoteRequest, err error) {
	r.Epoch = tidegate.Epoch(m.GetEpoch())
	if r.Stream, err = api.RequireID("stream id", m.GetStreamId()); err != nil {
		return r, err
	}
	if r.Holder, err = api.RequireID("holder", m.GetHolder()); err != nil {
		return r, err
	}
	r.Head, err = api.LogPos(m.GetHead())
	return r, err
}

// LossMessage converts a loss statement.
func LossMessage(l fence.LossStatement) *pb.LossStatement {
	out := &pb.LossStatement{
		Kind: lossKinds[l.Kind], AtLeast: l.AtLeast, Why: l.Why, Unclean: l.Unclean,
	}
	if l.Kind != fence.LossUnknown {
		out.Bounds = api.BoundsMessage(l.Bounds)
	}
	for _, n := range l.Missing {
		out.Missing = append(out.Missing, string(n))
	}
	if l.Blind > 0 {
		out.Blind = durationpb.New(l.Blind)
	}
	if l.Actual != nil {
		out.Measured = &pb.MeasuredLoss{
			Records: l.Actual.Records, Bytes: l.Actual.Bytes, ReleasedRecords: l.Actual.Released, Window: durationpb.New(l.Actual.Window),
		}
	}
	return out
}

var lossKinds = map[fence.LossKind]pb.LossKind{
	fence.LossZero:    pb.LossKind_LOSS_KIND_ZERO,
	fence.LossAtMost:  pb.LossKind_LOSS_KIND_AT_MOST,
	fence.LossUnknown: pb.LossKind_LOSS_KIND_UNKNOWN,
}
