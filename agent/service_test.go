package agent

import (
	"testing"

	"github.com/tidegate/tidegate"
)

func TestPromotedBy(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		source  string
		lineage tidegate.Lineage
		want    tidegate.Epoch
		tells   bool
	}{
		{SourceJournal, "root", 0, true},
		{SourceJournal, tidegate.Lineage("root+" + tidegate.Epoch(7).String() + "@4096"), 7, true},
		{SourceJournal, tidegate.Lineage("root+" + tidegate.Epoch(7).String() + "@4096+" + tidegate.Epoch(9).String() + "@8192"), 9, true},
		{SourceJournal, "root+what@4096", 0, false},
		{SourceJournal, "", 0, false},
		{SourcePostgres, "7412+2@0/3000000", 0, false},
	} {
		if e, ok := promotedBy(x.source, x.lineage); e != x.want || ok != x.tells {
			t.Errorf("%s %s: %s, %v; want %s, %v", x.source, x.lineage, e, ok, x.want, x.tells)
		}
	}
}
