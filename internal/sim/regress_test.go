package sim

import (
	"testing"

	"github.com/tidegate/tidegate/internal/racetest"
)

// regressions are seeds that once broke an invariant, and what it was. What a seed
// draws changes with the simulator, so that few of them still lead to the same
// place; each of the faults has a test of its own where it was mended.
var regressions = []struct {
	seed uint64
	was  string
}{
	{84, "I23: a controller that resumed an open epoch judged the loss by the new writer's gate"},
	{820, "I24: the simulator's writer committed what it had not let go"},
	{1234, "I28: an epoch issued again after a restore was taken for an old record"},
	{1308, "I13: a held-back release of class bounded was let go long after T"},
	{1571, "I28: a node that had missed a forced choice refused every adopt after it"},
	{2621, "I10: the simulator let a process that was paused take later messages first"},
	{4107, "I28: a drain waited for a wall clock that had been put back"},
	{4716, "I23: a backup newer than the gates' marks was believed"},
	{6085, "I28: a restarted service did not know its own writing behind the head"},
	{301103, "I6: a forced head was taken for a beginning of what was exposed"},
	{614503, "I23: the simulator's agent woke, and acquired with a lineage that it had not heard yet"},
	{805379, "I28: a node that had missed the first writers kept every fence from its quorum"},
	{904389, "I23: zero by the writer's own word was held against an unclean choice"},
	{905219, "I28: a registry put back had forgotten an unclean choice, and no refusal said whose log contradicts"},
	{957584, "I28: a plan whose target had set its log aside waited for it after another plan had gone on"},
	{1019022, "I17: a view that was overtaken on its way ended a drain, and what had been handed over went on"},
	{1040612, "I23: a simulated leader that was deposed in its sleep released by another's records"},
	{2064175, "I6: a registry put back had forgotten an unclean choice, and a longer log was cut to it without a word"},
	{3002813, "I11: a revision that a registry put back had issued again was taken for the record seen before"},
	{3008854, "I17: the reservation of the epoch that a switchover drains overtook it, and ended the drain"},
	{302282, "I24: what a node noted before a cut made its log look like the one it was to get"},
}

func TestRegressions(t *testing.T) {
	if racetest.Apart(t) {
		return
	}
	for _, x := range regressions {
		if r := Run(Options{Seed: x.seed}); r.Violation != "" {
			t.Errorf("seed %d (%s): %s", x.seed, x.was, r.Violation)
		}
	}
}
