package recovery

import "fmt"

// result ends the stream: whatever still waits is not due.
func (s *stream) result() (Vector, []string) {
	for _, d := range s.waiting {
		s.deliver(d)
	}
	s.waiting = nil
	v := s.vector()
	var why []string
	v.Type, v.AtBest, why = s.verdict(&v)
	v.Also = v.besides(v.Type)
	return v, append(why, s.remarks(&v)...)
}

func (s *stream) vector() Vector {
	v := Vector{
		Stream: s.name, Before: s.before, After: s.after, Dup: s.dup, Order: s.order, Retransmits: s.retransmits,
	}
	if s.high.set {
		last := s.id(s.high.place)
		v.Last = &last
	}
	if s.settings.OldLog {
		v.Lost = &s.lost
	}
	if s.incomparable == 0 {
		v.DupDiff = &s.dupDiff
	}
	if s.settings.Epoch != 0 && !s.epochless {
		v.Stale = &s.stale
	}
	if s.settings.OldDue {
		v.Upgrade = &s.upgrade
	}
	if s.settings.Due == DueUnknown {
		return v
	}
	due, pending, missing := s.due, 0, Seen{}
	for p, e := range s.entries {
		switch {
		case !e.due || e.came():
		case s.high.set && !s.high.less(p):
			missing.add(s.id(p))
		default:
			pending++
		}
	}
	v.Golden, v.Pending, v.Missing, v.Undone, v.Phantom = &due, &pending, &missing, &s.undone, &s.phantom
	if s.content() {
		v.BeforeDiffers, v.NewWrong, v.Tail = &s.beforeDiffers, &s.newWrong, &s.tail
		s.converged(&v)
	}
	return v
}

func (s *stream) converged(v *Vector) {
	if s.tail == 0 {
		return
	}
	at := s.id(s.tailFrom.place)
	v.ConvergeAt = &at
	if s.settings.Timed {
		after := s.tailAt
		v.ConvergeAfter = &after
	}
}

// verdict returns the type, the strongest that is not excluded, and why.
func (s *stream) verdict(v *Vector) (is, atBest Type, why []string) {
	deviations := s.beforeDiffers.Count + s.dupDiff.Count + s.newWrong.Count + s.phantom.Count + s.order.Count
	gap := v.Missing.count() + v.Lost.count() + v.Undone.count()
	repeated := s.dup.Count + s.staleDelivered
	// What is not excluded, whatever else is not known.
	open := Unknown
	switch {
	case gap > 0:
		open = Gap
	case deviations > 0:
		open = Convergent
	case repeated > 0:
		open = Repeating
	}
	unknown := func(format string, args ...any) (Type, Type, []string) {
		return Unknown, open, []string{fmt.Sprintf(format, args...)}
	}
	switch {
	case s.after == 0:
		return unknown("no output of the new writer came until the horizon, %s", s.settings.Horizon)
	case gap > 0:
		return Gap, Gap, s.gapReasons(v)
	case s.settings.Due == DueUnknown:
		return unknown("there is no golden: contents and losses are not decidable, duplicates and order are")
	case !s.content():
		return unknown("there is no golden content: contents are not decidable; losses, duplicates and order are")
	case s.traffic < s.settings.MinTail:
		return unknown("different outputs of the new writer: %d, and at least %d are needed to tell", s.traffic, s.settings.MinTail)
	case s.incomparable > 0:
		return unknown("%s again that had been forgotten: whether they are the same is not known", outputs(s.incomparable))
	case deviations > 0:
		return s.rolledBack(v)
	case s.behind():
		return unknown("the new writer came as far as %s, the old one had been at %s", s.id(s.newHigh.place), v.Last)
	case repeated > 0:
		return Repeating, Repeating, []string{fmt.Sprintf("%s again, identical", outputs(s.dup.Count))}
	}
	return Precise, Precise, nil
}

// behind reports whether the new writer has not come as far as the old one had been.
func (s *stream) behind() bool {
	return s.high.set && (!s.newHigh.set || s.newHigh.less(s.high.place))
}

// rolledBack tells a recovery that becomes right from one that does not.
func (s *stream) rolledBack(v *Vector) (is, atBest Type, why []string) {
	converged := s.tail >= s.settings.MinTail && !s.behind()
	switch {
	case !converged:
		return Divergent, Divergent, []string{fmt.Sprintf(
			"outputs differ from what is due; of the last ones %d in a row were right, %d are asked for", s.tail, s.settings.MinTail)}
	case s.beforeDiffers.Count > 0:
		// The new writer gives what the golden gives, so that the operator does not
		// explain the difference: other inputs stand where those of before stood.
		return Gap, Gap, []string{fmt.Sprintf(
			"%s of before that the new history does not give there, although it is reproduced otherwise: inputs were lost and replaced, or another program ran then",
			outputs(s.beforeDiffers.Count))}
	}
	return Convergent, Convergent, []string{fmt.Sprintf("outputs differ from what is due until %s, from where on %d are right", v.ConvergeAt, s.tail)}
}

func (s *stream) gapReasons(v *Vector) (why []string) {
	if n := v.Missing.count(); n > 0 {
		why = append(why, fmt.Sprintf("%s missing, from %s to %s", outputs(n), v.Missing.First, v.Missing.Last))
	}
	if n := v.Lost.count(); n > 0 {
		why = append(why, fmt.Sprintf("%s due by the old writer's log alone, from %s to %s: accepted inputs were lost", outputs(n), v.Lost.First, v.Lost.Last))
	}
	if n := v.Undone.count(); n > 0 {
		why = append(why, fmt.Sprintf("%s delivered whose inputs the new history lacks, from %s to %s", outputs(n), v.Undone.First, v.Undone.Last))
	}
	return why
}

// remarks say what qualifies any type.
func (s *stream) remarks(v *Vector) (out []string) {
	if s.stale.Count > 0 {
		what := "delivered"
		if s.settings.StaleRefused {
			what = "turned away"
		}
		out = append(out, fmt.Sprintf("%s sent by the old writer after the takeover, and %s", outputs(s.stale.Count), what))
	}
	if v.Stale == nil && s.after > 0 {
		out = append(out, "epochs are not known: whether the old writer went on is not decidable")
	}
	if s.beforeDiffers.Count > 0 && v.Type == Divergent {
		out = append(out, fmt.Sprintf("%s of before not as due either: the operator is not deterministic, or inputs were replaced",
			outputs(s.beforeDiffers.Count)))
	}
	if s.upgrade.Count > 0 {
		out = append(out, fmt.Sprintf("%s again as the new program gives them: the upgrade's difference, not the recovery's", outputs(s.upgrade.Count)))
	}
	return out
}

func outputs(n int) string {
	if n == 1 {
		return "1 output"
	}
	return fmt.Sprintf("%d outputs", n)
}
