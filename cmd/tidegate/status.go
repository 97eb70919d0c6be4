package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	ucli "github.com/urfave/cli/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/internal/cli"
)

func statusCommand() *ucli.Command {
	return &ucli.Command{
		Name:      "status",
		Usage:     "answer \"are we safe?\" and show every stream",
		ArgsUsage: " ",
		Flags: operatorFlags(cli.OutputFlag(),
			&ucli.StringFlag{Name: "service", Usage: "only this `SERVICE`"}),
		Action: status,
	}
}

func status(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	op, err := newOperator(c)
	if err != nil {
		return err
	}
	var st *pb.StatusResponse
	err = op.do(c.Context, "status", c.String("service"), func(client tidegatev1connect.OperatorServiceClient) error {
		res, err := client.Status(c.Context, connect.NewRequest(&pb.StatusRequest{Service: c.String("service")}))
		if err == nil {
			st = res.Msg
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := cli.Print(c, st, func(w io.Writer) error { return writeStatus(w, st) }); err != nil {
		return err
	}
	return cli.Exit(statusCode(st))
}

// statusCode lets a script ask without reading: a breach is an exit code, and
// so is not knowing.
func statusCode(st *pb.StatusResponse) cli.Code {
	//exhaustive:enforce
	switch st.GetVerdict() {
	case pb.Verdict_VERDICT_SAFE, pb.Verdict_VERDICT_AT_RISK:
	case pb.Verdict_VERDICT_UNSAFE:
		return cli.RPOBreached
	case pb.Verdict_VERDICT_UNKNOWN, pb.Verdict_VERDICT_UNSPECIFIED:
		return cli.UnknownState
	}
	for _, s := range st.GetServices() {
		if rto := s.GetRto().AsDuration(); rto > 0 && s.GetRtoPredicted().AsDuration() > rto {
			return cli.RTOBreached
		}
	}
	return cli.OK
}

// verdictWord is the first word of the answer.
func verdictWord(v pb.Verdict) string {
	//exhaustive:enforce
	switch v {
	case pb.Verdict_VERDICT_SAFE:
		return "SAFE"
	case pb.Verdict_VERDICT_AT_RISK:
		return "AT RISK"
	case pb.Verdict_VERDICT_UNSAFE:
		return "UNSAFE"
	case pb.Verdict_VERDICT_UNKNOWN, pb.Verdict_VERDICT_UNSPECIFIED:
	}
	return "UNKNOWN"
}

func writeStatus(w io.Writer, st *pb.StatusResponse) error {
	fmt.Fprintln(w, answer(st.GetVerdict(), st.GetReasons()))
	if !st.GetRegistryReachable() {
		fmt.Fprintln(w, "The registry does not answer: streams flow on, role changes wait, and this is the gate's last view.")
	}
	if st.GetRegistrySuspect() {
		fmt.Fprintln(w, "The registry may have been restored from a backup: no zero-loss claim until a live writer arms its gate again.")
	}
	for _, s := range st.GetServices() {
		writeService(w, s, st.GetNow().AsTime())
	}
	return writeNodes(w, st)
}

// answer is the whole story in one line.
func answer(v pb.Verdict, reasons []string) string {
	if len(reasons) == 0 {
		return verdictWord(v)
	}
	return verdictWord(v) + ": " + strings.Join(reasons, "; ")
}

// drillText says how long ago a drill has passed, and what came of the newest if that
// was another one; now is the gate's time.
func drillText(s *pb.ServiceStatus, now time.Time) string {
	one := func(d *pb.DrillRecord) string {
		return fmt.Sprintf("%s %s %s ago", d.GetLevel(), d.GetOutcome(), now.Sub(d.GetEnded().AsTime()).Round(time.Second))
	}
	last, passed := s.GetLastDrill(), s.GetPassedDrill()
	switch {
	case last == nil:
		return "drills: none on record"
	case passed == nil:
		return "drills: none has passed; the newest: " + one(last)
	case passed.GetId() == last.GetId():
		return "drills: " + one(passed)
	}
	return "drills: " + one(passed) + "; the newest: " + one(last)
}

func writeService(w io.Writer, s *pb.ServiceStatus, now time.Time) {
	fmt.Fprintf(w, "\nservice %s  %s\n", s.GetName(), answer(s.GetVerdict(), s.GetReasons()))
	fmt.Fprintf(w, "  rpo %s, rto %s (predicted %s), a failover now: %s\n",
		span(s.GetRpo(), "none"), span(s.GetRto(), "none"), span(s.GetRtoPredicted(), cli.Unknown), lossText(s.GetLossIfNow()))
	if r := s.GetRoute(); r != nil {
		fmt.Fprintf(w, "  served at %s (site %s, epoch %d)\n", strings.Join(r.GetEndpoints(), ", "), r.GetSite(), r.GetEpoch())
	}
	fmt.Fprintln(w, "  "+drillText(s, now))
	if s.GetFrozen() {
		fmt.Fprintln(w, "  role changes are frozen")
	}
	if s.GetPlanId() != "" {
		fmt.Fprintf(w, "  plan %s is under way: `tidegate plan show %s`\n", s.GetPlanId(), s.GetPlanId())
	}
	table := cli.NewTable("  stream", "verdict", "writer", "epoch", "mode", "gate", "exposed", "age", "members", "archive", "notes")
	for _, x := range s.GetStreams() {
		table.Row(streamRow(x)...)
	}
	_, _ = table.WriteTo(w) // the caller's next write reports a broken pipe
}

func streamRow(s *pb.StreamStatus) []string {
	v, writer := s.GetView(), s.GetWriter()
	epoch := v.GetEpoch()
	var notes []string
	note := func(holds bool, text string) {
		if holds {
			notes = append(notes, text)
		}
	}
	note(s.GetUnderProtected(), "under-protected")
	note(!s.GetSiteRedundant(), "site-redundant: no")
	holder, number, gate := "", "none", ""
	if epoch.GetEpoch() > 0 {
		holder, number, gate = epoch.GetHolder().GetNode(), fmt.Sprint(epoch.GetEpoch()), enumWord(epoch.GetGate().GetState())
		if epoch.GetState() != pb.EpochState_EPOCH_STATE_ACTIVE {
			notes = append(notes, enumWord(epoch.GetState()))
		}
	}
	exposed, age := cli.Unknown, cli.Unknown
	if e := writer.GetExposure(); e != nil {
		exposed = cli.Count(e.Records) + " rec, " + cli.MaybeSize(e.Bytes)
		age = span(e.GetAge(), cli.Unknown)
	}
	members := fmt.Sprintf("%d of %d, w %d", s.GetMembersCounted(), len(s.GetMembers()), v.GetW())
	return []string{
		"  " + v.GetName(), answer(s.GetVerdict(), nil), holder, number, enumWord(v.GetMode()), gate, exposed, age, members, streamArchive(s.GetArchive()),
		strings.Join(append(notes, s.GetReasons()...), "; "),
	}
}

func writeNodes(w io.Writer, st *pb.StatusResponse) error {
	table := cli.NewTable("role", "node", "site", "stream", "state", "durable", "commit", "applied", "archived", "seen")
	names := streamNames(st)
	for _, s := range st.GetStandbys() {
		node := s.GetNode()
		if s.GetReport() == nil {
			table.Row("standby", node.GetNode(), node.GetSite(), "", "no report", "", "", "", "", "never")
			continue
		}
		for _, x := range s.GetReport().GetStreams() {
			state := "receiving"
			if x.GetLearner() {
				state = "learner"
			}
			if x.GetLimbo() {
				state = "limbo"
			}
			if x.GetError() != "" {
				state = x.GetError()
			}
			table.Row("standby", node.GetNode(), node.GetSite(), names[x.GetStreamId()], state,
				fmt.Sprint(x.GetDurable().GetSeq()), fmt.Sprint(x.GetCommitSeq()), cli.Count(x.AppliedSeq), archivedTo(x.GetArchive()), ago(s.GetReportAge()))
		}
	}
	for _, a := range st.GetAgents() {
		if a.GetReport() == nil {
			table.Row("agent", a.GetNode(), a.GetSite(), "", "no report", "", "", "", "", "never")
			continue
		}
		for _, x := range a.GetReport().GetStreams() {
			durable := "" // only the writer counts acknowledgements
			if x.GetRole() == pb.AgentRole_AGENT_ROLE_WRITER {
				durable = fmt.Sprint(x.GetDurableSeq())
			}
			table.Row("agent", a.GetNode(), a.GetSite(), names[x.GetStreamId()], enumWord(x.GetRole()), durable, "", "", "", ago(a.GetReportAge()))
		}
	}
	for _, r := range st.GetRoutes() {
		for _, x := range r.GetServices() {
			state := fmt.Sprintf("to %s, epoch %d, %d connections", x.GetEndpoint(), x.GetEpoch(), x.GetConnections())
			if x.GetEndpoint() == "" {
				state = fmt.Sprintf("epoch %d, nobody was connected yet", x.GetEpoch())
			}
			table.Row("route", r.GetName(), r.GetSite(), x.GetService(), state, "", "", "", "", ago(r.GetReportAge()))
		}
	}
	fmt.Fprintln(w)
	_, err := table.WriteTo(w)
	return err
}

// streamArchive is a stream's archive in a few words.
func streamArchive(a *pb.StreamArchive) string {
	//exhaustive:enforce
	switch a.GetState() {
	case pb.ArchiveState_ARCHIVE_STATE_NONE:
		return "none"
	case pb.ArchiveState_ARCHIVE_STATE_UPLOADS:
		return archiveLag(a.GetSaid())
	case pb.ArchiveState_ARCHIVE_STATE_FAILS:
		return "fails: " + a.GetSaid().GetError()
	case pb.ArchiveState_ARCHIVE_STATE_IDLE:
		return "nobody uploads, " + archiveLag(a.GetSaid())
	case pb.ArchiveState_ARCHIVE_STATE_UNSPECIFIED:
	}
	return cli.Unknown
}

// archiveLag is how far an archive is behind what is committed.
func archiveLag(a *pb.StandbyArchive) string {
	text := span(a.GetBehind(), cli.Unknown)
	switch {
	case a.GetBehind() == nil:
	case a.GetBehind().AsDuration() == 0:
		text = "all"
	case a.BehindBytes == nil:
		text += ", " + cli.Unknown + " bytes behind"
	default:
		text += ", " + cli.Size(int64(a.GetBehindBytes())) + " behind" //nolint:gosec // a size
	}
	if n := a.GetHoles(); n > 0 {
		text += fmt.Sprintf(", %d holes", n)
	}
	return text
}

// archivedTo is what a node knows to be archived, empty where it has no archive; who
// uploads is marked.
func archivedTo(a *pb.StandbyArchive) string {
	if a == nil {
		return ""
	}
	text := cli.Count(a.ArchivedSeq)
	if a.GetArchivist() {
		text += " (uploads)"
	}
	return text
}

func streamNames(st *pb.StatusResponse) map[string]string {
	names := map[string]string{}
	for _, s := range st.GetServices() {
		for _, x := range s.GetStreams() {
			names[x.GetView().GetId()] = s.GetName() + "/" + x.GetView().GetName()
		}
	}
	return names
}

func span(d *durationpb.Duration, absent string) string {
	if d == nil {
		return absent
	}
	return cli.Span(d.AsDuration())
}

func ago(d *durationpb.Duration) string {
	if d == nil {
		return "never"
	}
	return cli.Span(d.AsDuration().Round(time.Millisecond)) + " ago"
}

// lossText is a loss statement as a sentence's end.
func lossText(l *pb.LossStatement) string {
	text := "loss unknown"
	switch l.GetKind() {
	case pb.LossKind_LOSS_KIND_ZERO:
		text = "loses nothing acknowledged"
	case pb.LossKind_LOSS_KIND_AT_MOST:
		text = "loses at most " + boundsText(l.GetBounds())
	case pb.LossKind_LOSS_KIND_UNKNOWN, pb.LossKind_LOSS_KIND_UNSPECIFIED:
		if n := l.GetAtLeast(); n > 0 {
			text += fmt.Sprintf(", at least %d records", n)
		}
	}
	if l.GetWhy() != "" {
		text += " (" + l.GetWhy() + ")"
	}
	if l.GetBlind() != nil {
		text += ", blind for at most " + cli.Span(l.GetBlind().AsDuration())
	}
	if len(l.GetMissing()) > 0 {
		text += ", without " + strings.Join(l.GetMissing(), ", ")
	}
	return text
}

// boundsText names the limits that bounds has; what it lacks is unlimited.
func boundsText(m *pb.Bounds) string {
	b, err := api.Bounds(m)
	if err != nil {
		return cli.Unknown
	}
	return b.String()
}
