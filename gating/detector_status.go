package gating

import (
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/detect"
	"github.com/tidegate/tidegate/gating/registry"
)

var detectorModes = map[detect.Mode]pb.DetectorMode{
	detect.Off: pb.DetectorMode_DETECTOR_MODE_OFF, detect.Observe: pb.DetectorMode_DETECTOR_MODE_OBSERVE, detect.Auto: pb.DetectorMode_DETECTOR_MODE_AUTO,
}

var detectorVerdicts = map[detect.State]pb.DetectorVerdict{
	detect.Up: pb.DetectorVerdict_DETECTOR_VERDICT_UP, detect.Suspect: pb.DetectorVerdict_DETECTOR_VERDICT_SUSPECT,
	detect.Down: pb.DetectorVerdict_DETECTOR_VERDICT_DOWN, detect.Undecided: pb.DetectorVerdict_DETECTOR_VERDICT_UNDECIDED,
}

func durationMessage(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

// detectorSettings is a service's detector as configured, defaults filled in.
func detectorSettings(d registry.Detector) *pb.DetectorSettings {
	s := settingsOf(d)
	return &pb.DetectorSettings{
		Mode: detectorModes[s.Mode], DownAfter: durationpb.New(s.DownAfter), AntiFlap: durationpb.New(s.AntiFlap), Agree: uint32(s.Agree),
	}
}

// status is what the detector of a service says; only the leading gate knows,
// any other says undecided.
func (l *lookout) status(svc registry.Service) *pb.DetectorStatus {
	out := &pb.DetectorStatus{Settings: detectorSettings(svc.Detector), Verdict: pb.DetectorVerdict_DETECTOR_VERDICT_UNDECIDED}
	l.world.mu.Lock()
	defer l.world.mu.Unlock()
	w := l.watched[svc.Name]
	if w == nil || w.verdict.State == "" {
		out.Reasons = []string{"this gate has not judged it yet"}
		return out
	}
	x := w.verdict
	out.Verdict, out.Reasons, out.Against, out.Episodes = detectorVerdicts[x.State], x.Reasons, w.against, x.Episode
	out.Since = timestamppb.New(l.now().Add(-l.world.age(x.Since)))
	for _, v := range x.Votes {
		one := &pb.DetectorVote{Site: string(v.Point.Site), Name: v.Point.Name, Kind: string(v.Point.Kind), Ballot: string(v.Ballot), Why: v.Why}
		if v.Silent != nil {
			one.Silent = durationpb.New(*v.Silent)
		}
		out.Votes = append(out.Votes, one)
	}
	for _, a := range x.Alarms {
		out.Alarms = append(out.Alarms, &pb.Fact{Key: a.Kind, Value: a.Text})
	}
	out.Vantages = l.vantagesOf(svc.Name)
	return out
}

// vantagesOf is what other gates wrote down of a service. Called with world.mu held.
func (l *lookout) vantagesOf(name tidegate.ServiceName) []*pb.Vantage {
	var out []*pb.Vantage
	for _, n := range slices.Sorted(maps.Keys(l.others)) {
		g := l.others[n]
		if g.seen == 0 {
			continue
		}
		m := g.message()
		m.Observations = slices.DeleteFunc(m.GetObservations(), func(o *pb.Observation) bool { return o.GetService() != string(name) })
		for _, o := range m.GetObservations() {
			o.Age = durationpb.New(l.world.age(g.seen))
		}
		if len(m.GetObservations()) > 0 {
			out = append(out, m)
		}
	}
	return out
}

// judgeDetector adds what the detector sees to a service's verdict.
func judgeDetector(j *judgement, d *pb.DetectorStatus) {
	if d.GetSettings().GetMode() == pb.DetectorMode_DETECTOR_MODE_OFF {
		return
	}
	switch d.GetVerdict() {
	case pb.DetectorVerdict_DETECTOR_VERDICT_DOWN:
		j.say(pb.Verdict_VERDICT_UNSAFE, "the detector takes the primary for down")
	case pb.DetectorVerdict_DETECTOR_VERDICT_SUSPECT:
		j.say(pb.Verdict_VERDICT_AT_RISK, "the detector suspects the primary")
	case pb.DetectorVerdict_DETECTOR_VERDICT_UNDECIDED:
		j.say(pb.Verdict_VERDICT_AT_RISK, "the detector cannot tell whether the primary lives: %s", strings.Join(d.GetReasons(), "; "))
	case pb.DetectorVerdict_DETECTOR_VERDICT_UP, pb.DetectorVerdict_DETECTOR_VERDICT_UNSPECIFIED:
	}
	for _, a := range d.GetAlarms() {
		j.say(pb.Verdict_VERDICT_AT_RISK, "%s: %s", a.GetKey(), a.GetValue())
	}
}
