package gating

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
)

// TestStreamArchive: who uploads is believed, silence is not.
func TestStreamArchive(t *testing.T) {
	member := func(node string, age time.Duration, a *pb.StandbyArchive) *pb.MemberStatus {
		return &pb.MemberStatus{Node: node, ReportAge: durationpb.New(age), Stream: &pb.StandbyStream{Archive: a}}
	}
	uploads := &pb.StandbyArchive{Archivist: true, ArchivedSeq: new(uint64(5))}
	fails := &pb.StandbyArchive{Archivist: true, Error: "gone"}
	ahead, behind := &pb.StandbyArchive{ArchivedSeq: new(uint64(9))}, &pb.StandbyArchive{ArchivedSeq: new(uint64(3))}
	const stale = 5 * time.Second
	for name, tt := range map[string]struct {
		members []*pb.MemberStatus
		state   pb.ArchiveState
		node    string
	}{
		"nobody reports":       {[]*pb.MemberStatus{{Node: "a"}, member("b", time.Minute, uploads)}, pb.ArchiveState_ARCHIVE_STATE_UNSPECIFIED, ""},
		"none":                 {[]*pb.MemberStatus{member("a", 0, nil)}, pb.ArchiveState_ARCHIVE_STATE_NONE, ""},
		"one is silent":        {[]*pb.MemberStatus{member("a", 0, nil), member("b", time.Minute, uploads)}, pb.ArchiveState_ARCHIVE_STATE_UNSPECIFIED, ""},
		"one uploads":          {[]*pb.MemberStatus{member("a", 0, ahead), member("b", 0, uploads), member("c", 0, nil)}, pb.ArchiveState_ARCHIVE_STATE_UPLOADS, "b"},
		"it fails":             {[]*pb.MemberStatus{member("a", 0, fails), member("b", 0, ahead)}, pb.ArchiveState_ARCHIVE_STATE_FAILS, "a"},
		"it is silent":         {[]*pb.MemberStatus{member("a", time.Minute, uploads), member("b", 0, behind), member("c", 0, ahead)}, pb.ArchiveState_ARCHIVE_STATE_IDLE, "c"},
		"two for a while":      {[]*pb.MemberStatus{member("a", 0, fails), member("b", 0, uploads)}, pb.ArchiveState_ARCHIVE_STATE_UPLOADS, "b"},
		"some have none of it": {[]*pb.MemberStatus{member("a", 0, nil), member("b", 0, behind)}, pb.ArchiveState_ARCHIVE_STATE_IDLE, "b"},
	} {
		if got := streamArchive(tt.members, stale); got.GetState() != tt.state || got.GetNode() != tt.node {
			t.Errorf("%s: %v of %q, want %v of %q", name, got.GetState(), got.GetNode(), tt.state, tt.node)
		}
	}
}
