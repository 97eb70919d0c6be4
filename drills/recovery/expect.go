package recovery

import "fmt"

// Row is what an approach gives for each class of operators, by itself and without a loss
// of inputs.
type Row struct {
	Approach          Approach
	Arbitrary         Type
	Deterministic     Type
	ConvergentCapable Type
	Repeatable        Type
}

// Table returns what every approach gives.
func Table() []Row {
	return []Row{
		{Amnesia, Gap, Gap, Gap, Gap},
		{PassiveStandby, Divergent, Repeating, Repeating, Repeating},
		{UpstreamBackup, Divergent, Divergent, Convergent, Repeating},
		{ActiveStandby, Divergent, Repeating, Repeating, Repeating},
	}
}

// For returns what the row says of a class.
func (r Row) For(c Class) Type {
	switch c {
	case Arbitrary:
		return r.Arbitrary
	case Deterministic:
		return r.Deterministic
	case ConvergentCapable:
		return r.ConvergentCapable
	case Repeatable:
		return r.Repeatable
	}
	return Unknown
}

// Setup is how a service is protected.
type Setup struct {
	Approach Approach `json:"approach"`
	Class    Class    `json:"class"` // of the whole pipeline: see [Compose]

	IDs   bool `json:"ids"`   // outputs carry ids that a second execution gives them again
	Gate  bool `json:"gate"`  // no output leaves before its input is where the takeover finds it
	Dedup bool `json:"dedup"` // what was delivered is not delivered again: the receiver drops it, or the new writer asks

	// Determinants says that all that decides besides the inputs is recorded among
	// them: times, random numbers, answers of others, the order of arrival.
	Determinants bool `json:"determinants"`
	// MayLose says that the failure that is rehearsed may take inputs along whose outputs
	// were delivered: one of a whole site, with bounds above zero or without a gate.
	MayLose bool `json:"may_lose"`
}

// Expected returns the type that a setup gives; [Unknown] when its approach or its class
// is. Ids, gate and dedup together make precise of repeating, and of nothing weaker:
// dropping what came before does not mend what differs.
func Expected(s Setup) Type {
	class := s.Class
	if class == Arbitrary && s.Determinants {
		class = Deterministic
	}
	expected := Unknown
	for _, r := range Table() {
		if r.Approach == s.Approach {
			expected = r.For(class)
		}
	}
	switch {
	case s.MayLose:
		return Gap
	case expected == Repeating && s.IDs && s.Gate && s.Dedup:
		return Precise
	}
	return expected
}

// Outcome is what comes of comparing a recovery with what was expected and required.
type Outcome string

// The outcomes.
const (
	Holds     Outcome = "holds"   // as predicted, and not weaker than required
	Lucky     Outcome = "lucky"   // stronger than predicted: this time
	Failed    Outcome = "failed"  // weaker than predicted or required
	Undecided Outcome = "unknown" // what was seen, predicted or required does not tell
)

// Comparison is one cell of a drill matrix. Its JSON form is stable.
type Comparison struct {
	Predicted Type     `json:"predicted"`
	Required  Type     `json:"required"` // unknown: nothing is
	Observed  Type     `json:"observed"`
	AtBest    Type     `json:"at_best"` // what was observed may be this, and nothing stronger; unknown: nothing is excluded
	Outcome   Outcome  `json:"outcome"`
	Reasons   []string `json:"reasons"` // never nil
}

// Compare compares what was predicted and is required with what was observed. It fails
// also when the type is not known, but is known to be too weak.
func Compare(predicted, required Type, observed Result) Comparison {
	c := Comparison{
		Predicted: predicted, Required: required, Observed: observed.Type, AtBest: observed.AtBest, Outcome: Holds, Reasons: []string{},
	}
	say := func(o Outcome, format string, args ...any) {
		if c.Outcome != Failed {
			c.Outcome = o
		}
		c.Reasons = append(c.Reasons, fmt.Sprintf(format, args...))
	}
	if predicted != Unknown && predicted < required {
		say(Undecided, "the predicted %s is weaker than the required %s", predicted, required)
	}
	seen := "observed " + observed.Type.String()
	if best := observed.AtBest; best != Unknown {
		if observed.Type == Unknown {
			seen = "observed at best " + best.String()
		}
		if best < predicted {
			say(Failed, "%s is weaker than the predicted %s", seen, predicted)
		}
		if best < required {
			say(Failed, "%s is weaker than the required %s", seen, required)
		}
	}
	switch {
	case c.Outcome == Failed:
	case observed.Type == Unknown:
		say(Undecided, "%s: which type it is, is not known", seen)
	case predicted == Unknown && required == Unknown:
		say(Undecided, "nothing is required, and nothing predicted: the approach or the operator class is not known")
	case predicted == Unknown:
		say(Lucky, "lucky, not guaranteed: %s, and nothing is predicted: the approach or the operator class is not known", seen)
	case observed.Type > predicted:
		say(Lucky, "lucky, not guaranteed: %s is stronger than the predicted %s", seen, predicted)
	}
	return c
}
