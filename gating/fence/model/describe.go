package model

import (
	"fmt"
	"strings"
)

// name tells a batch apart from others, for people: b1.2 is the second batch
// that the holder of the first slot produced; by3 that the third one sealed it.
func name(e entry) string {
	if e == 0 {
		return "-"
	}
	origin, k := e>>5&3+1, e>>3&3+1
	s := fmt.Sprintf("b%d.%d", origin, k)
	if by := sealedBy(e); by != origin {
		s += fmt.Sprintf("by%d", by)
	}
	if secondRun(e) {
		s += "'"
	}
	return s
}

func (l *blog) list(n uint8) string {
	names := make([]string, n)
	for i := range names {
		names[i] = name(l[i])
	}
	return "[" + strings.Join(names, " ") + "]"
}

// describe tells one step from s to t in a line.
func (m *machine) describe(s, t *state, mv move) string {
	who := fmt.Sprintf("N%d", mv.i)
	switch mv.kind {
	case mvSeal, mvAckHeard, mvRestart, mvDegrade, mvReopen, mvEnforce, mvRearm, mvDrain, mvHandover, mvResume:
		return m.describeWriter(t, mv, who)
	case mvStore, mvSync, mvCrash, mvWipe, mvReadRecord, mvFree:
		return m.describeNode(s, t, mv, who)
	}
	return m.describePlan(s, t, mv, who)
}

func (m *machine) describeWriter(t *state, mv move, who string) string {
	w := &t.slots[mv.p]
	e := w.epoch
	switch mv.kind {
	case mvSeal:
		return fmt.Sprintf("W%d seals seq %d = %s%s", e, w.n, name(w.log[w.n-1]), w.released())
	case mvAckHeard:
		return fmt.Sprintf("W%d hears %s: durable %d%s", e, who, t.nodes[mv.i].got[mv.p], w.released())
	case mvRestart:
		return fmt.Sprintf("W%d is killed and starts again; its journal holds %s", e, w.log.list(w.n))
	case mvDegrade:
		return fmt.Sprintf("W%d degrades; the record says %s%s", e, gateName(t.key.gate), w.released())
	case mvReopen:
		return fmt.Sprintf("W%d opens its gate: the record says DEGRADED already%s", e, w.released())
	case mvEnforce:
		return fmt.Sprintf("W%d enforces its gate again", e)
	case mvRearm:
		return fmt.Sprintf("W%d re-arms: the record says ARMED", e)
	case mvDrain:
		return fmt.Sprintf("W%d hears of the switchover and drains", e)
	case mvHandover:
		return fmt.Sprintf("W%d hands over at head %d: DEMOTED", e, w.n)
	}
	return fmt.Sprintf("W%d hears that the switchover was aborted and goes on", e)
}

func (w *slot) released() string {
	if w.a == 0 {
		return ""
	}
	return fmt.Sprintf("; durable %d, released %s", w.d, w.log.list(w.a))
}

func (m *machine) describeNode(s, t *state, mv move, who string) string {
	x := &t.nodes[mv.i]
	switch mv.kind {
	case mvStore:
		w := &t.slots[mv.p]
		done := "syncs it and acks"
		if x.synced < x.n {
			done = "has not synced it"
			if m.broken[AckAfterSync] {
				done = "acks it before it is synced"
			}
		}
		return fmt.Sprintf("%s stores seq %d = %s from W%d, %s%s", who, x.n, name(x.log[x.n-1]), w.epoch, done, w.released())
	case mvSync:
		return fmt.Sprintf("%s syncs its log to %d and acks%s", who, x.synced, t.slots[max(x.term, 1)].released())
	case mvCrash:
		return fmt.Sprintf("%s crashes; on disk are log %s, promise %d", who, x.log.list(x.n), t.slots[x.disk].epoch)
	case mvWipe:
		return fmt.Sprintf("%s loses its disk and is formatted anew", who)
	case mvReadRecord:
		return fmt.Sprintf("%s, in limbo, reads the record: promises epoch %d", who, t.slots[x.prom].epoch)
	}
	return fmt.Sprintf("the record names %s's new incarnation: it leaves limbo with log %s", who, x.log.list(s.nodes[mv.i].n))
}

func (m *machine) describePlan(s, t *state, mv move, who string) string {
	q := &t.slots[mv.p]
	c := fmt.Sprintf("C%d", q.epoch)
	if m.cfg.Twins {
		c += string(rune('a' + mv.c))
	}
	x := &t.nodes[mv.i]
	switch mv.kind {
	case mvReserve, mvReserveAbove:
		why := "failover"
		if q.kind == acquire {
			why = "acquire of the restarted agent"
		}
		if mv.kind == mvReserveAbove {
			why = "above a promise that the record does not know"
		}
		return fmt.Sprintf("F1 %s reserves epoch %d (%s); the gate is %s", c, q.epoch, why, gateName(q.gate))
	case mvPromise:
		r := &x.rep[mv.p][mv.c]
		return fmt.Sprintf("F2 %s promises epoch %d to %s, answers: adopted %d, log %s", who, q.epoch, c, t.slots[r.term].epoch, r.log.list(r.n))
	case mvPromiseLost:
		return fmt.Sprintf("F2 %s promises epoch %d, %s does not hear of it", who, q.epoch, c)
	case mvChoose:
		ch := &q.ch[mv.c]
		return fmt.Sprintf("F3 %s chooses the head %d: adopted %d, log %s", c, ch.n, t.slots[ch.term].epoch, ch.log.list(ch.n))
	case mvHalfway:
		return fmt.Sprintf("F5 %s promises epoch %d, cuts, and has copied %s so far", who, q.epoch, x.log.list(x.n))
	case mvAdopt:
		return fmt.Sprintf("F5 %s adopts epoch %d with log %s (had %s)", who, q.epoch, x.log.list(x.n), s.nodes[mv.i].log.list(s.nodes[mv.i].n))
	case mvActivate:
		return fmt.Sprintf("F6 %s opens epoch %d with head %d, W=%d: log %s", c, q.epoch, q.base, q.w, q.log.list(q.n))
	case mvSwitch:
		return fmt.Sprintf("S1 a switchover from W%d begins", q.epoch)
	case mvAbort:
		return fmt.Sprintf("the switchover from W%d is aborted", q.epoch)
	}
	return fmt.Sprintf("the registry is put back from its first backup: epoch %d is ACTIVE", t.slots[t.key.slot].epoch)
}

func gateName(g uint8) string {
	switch g {
	case gateArmed:
		return "ARMED"
	case gateDegraded:
		return "DEGRADED"
	}
	return "UNKNOWN"
}
