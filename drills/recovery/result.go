package recovery

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
)

// Symptom is something that was seen besides what a type says: it makes a hybrid.
type Symptom string

// The symptoms, in the order they are listed.
const (
	Missing          Symptom = "missing"           // due, and passed over
	Lost             Symptom = "lost"              // due by the old writer's recovered log only
	Undone           Symptom = "undone"            // delivered before, of an input that the new history lacks
	BeforeDiffers    Symptom = "before-differs"    // delivered before, with another content than the new history gives
	Duplicates       Symptom = "duplicates"        // delivered again
	DuplicatesDiffer Symptom = "duplicates-differ" // delivered again, with another content
	Wrong            Symptom = "wrong"             // first delivered after the takeover, with another content
	Phantoms         Symptom = "phantoms"          // delivered after the takeover, of no input
	Reordered        Symptom = "reordered"         // delivered behind one that comes later
	Stale            Symptom = "stale"             // sent by the old writer after the takeover
	Upgraded         Symptom = "upgraded"          // differs because the new program does
)

// Seen counts outputs, and says where they begin and end.
type Seen struct {
	Count int `json:"count"`
	First *ID `json:"first"` // the lowest; nil when there is none, or outputs have no ids
	Last  *ID `json:"last"`  // the highest
}

func (s *Seen) add(id ID) {
	s.Count++
	if s.First == nil || id.place().less(s.First.place()) {
		s.First = &id
	}
	if s.Last == nil || s.Last.place().less(id.place()) {
		s.Last = &id
	}
}

// count is 0 for what is not decidable: only for deciding about what was seen.
func (s *Seen) count() int {
	if s == nil {
		return 0
	}
	return s.Count
}

// Vector is all that was seen of one stream. A nil pointer is what could not be
// decided; it is never 0.
type Vector struct {
	Stream tidegate.StreamName `json:"stream"`
	Type   Type                `json:"type"`
	AtBest Type                `json:"at_best"`
	Also   []Symptom           `json:"also"`

	Before int  `json:"before"` // outputs that came until the failure, without retransmits
	After  int  `json:"after"`  // outputs of the new writer, without retransmits
	Golden *int `json:"golden"` // outputs that are due; nil without a golden
	Last   *ID  `json:"last"`   // the highest that was delivered

	Missing       *Seen `json:"missing"`        // due up to Last, and never delivered
	Lost          *Seen `json:"lost"`           // nil: the old writer's log was not recovered
	Undone        *Seen `json:"undone"`         // delivered by the old writer, and not due
	BeforeDiffers *Seen `json:"before_differs"` // delivered by the old writer, and due with another content
	Dup           Seen  `json:"dup"`            // delivered before, and again
	DupDiff       *Seen `json:"dup_diff"`       // of these, with another content
	NewWrong      *Seen `json:"new_wrong"`      // first delivered by the new writer, and due with another content
	Phantom       *Seen `json:"phantom"`        // delivered by the new writer, and not due
	Order         Seen  `json:"order"`          // first delivered behind one that comes later
	Stale         *Seen `json:"stale"`          // of a superseded epoch, after the takeover; nil when epochs are not known
	Retransmits   int   `json:"retransmits"`    // the same output of the same epoch twice in a row: the transport's, removed
	Upgrade       *Seen `json:"upgrade"`        // delivered again as the old program gives it, then as the new one does; nil without the old program's golden

	Tail          *int           `json:"tail"`              // outputs of the tail, each later than the one before it
	ConvergeAt    *ID            `json:"converge_at"`       // where the tail begins; nil when there is none
	ConvergeAfter *time.Duration `json:"converge_after_ns"` // when it began, since the failure; nil without times
	Pending       *int           `json:"pending"`           // due behind Last: not delivered by the horizon

	Alignment *Alignment `json:"alignment"` // of outputs without ids only
}

// Basis says what outputs were told apart by.
type Basis string

// The bases.
const (
	ByIDs       Basis = "ids"
	ByAlignment Basis = "alignment"
)

// Confidence says how sure a result is.
type Confidence string

// The confidences.
const (
	Certain   Confidence = "certain"   // by ids, or by the only way in which the outputs fit
	Ambiguous Confidence = "ambiguous" // equal outputs fit in several ways
	Partial   Confidence = "partial"   // parts of the outputs fit
)

// Result is what [Classify] and [Align] find. Its JSON form is stable.
type Result struct {
	Type Type `json:"type"` // of all streams together

	// AtBest is the strongest type that what was seen leaves possible, which says
	// something when Type is unknown. Unknown itself: nothing is excluded.
	AtBest Type `json:"at_best"`

	Also       []Symptom     `json:"also"` // never nil; not empty: a hybrid
	Basis      Basis         `json:"basis"`
	Confidence Confidence    `json:"confidence"`
	Content    bool          `json:"content"`    // contents were decidable
	Reasons    []string      `json:"reasons"`    // in words; never nil
	MinTail    int           `json:"min_tail"`   // at least 1
	Horizon    time.Duration `json:"horizon_ns"` // of "divergent" and "pending"
	Streams    []Vector      `json:"streams"`    // by name
}

// Hybrid reports whether something was seen besides what the type says.
func (r Result) Hybrid() bool { return len(r.Also) > 0 }

func (r Result) String() string {
	var b strings.Builder
	b.WriteString(r.Type.String())
	switch r.Type {
	case Divergent:
		fmt.Fprintf(&b, " up to %s", r.Horizon)
	case Unknown:
		if r.AtBest != Unknown {
			fmt.Fprintf(&b, ", at best %s", r.AtBest)
		}
	}
	if len(r.Also) > 0 {
		var names []string
		for _, s := range r.Also {
			names = append(names, string(s))
		}
		b.WriteString(", with " + strings.Join(names, ", "))
	}
	if r.Confidence != Certain {
		fmt.Fprintf(&b, " (%s)", r.Confidence)
	}
	return b.String()
}

// together fills in what is said of all streams.
func (r *Result) together() {
	slices.SortFunc(r.Streams, func(a, b Vector) int { return strings.Compare(string(a.Stream), string(b.Stream)) })
	types := make([]Type, 0, len(r.Streams))
	best := Precise
	also := map[Symptom]bool{}
	for _, v := range r.Streams {
		types = append(types, v.Type)
		if v.AtBest != Unknown {
			best = min(best, v.AtBest)
		}
	}
	r.Type = Weakest(types...)
	r.AtBest = r.Type
	if r.Type == Unknown && best < Precise {
		r.AtBest = best
	}
	for _, v := range r.Streams {
		for _, s := range v.besides(r.Type) {
			also[s] = true
		}
	}
	r.Also = []Symptom{}
	for _, s := range symptoms() {
		if also[s] {
			r.Also = append(r.Also, s)
		}
	}
}

func symptoms() []Symptom {
	return []Symptom{
		Missing, Lost, Undone, BeforeDiffers, Duplicates, DuplicatesDiffer, Wrong, Phantoms, Reordered, Stale, Upgraded,
	}
}

// besides returns what was seen besides what a type says by itself.
func (v *Vector) besides(t Type) []Symptom {
	seen := map[Symptom]int{
		Missing: v.Missing.count(), Lost: v.Lost.count(), Undone: v.Undone.count(), BeforeDiffers: v.BeforeDiffers.count(),
		Duplicates: v.Dup.Count, DuplicatesDiffer: v.DupDiff.count(), Wrong: v.NewWrong.count(), Phantoms: v.Phantom.count(),
		Reordered: v.Order.Count, Stale: v.Stale.count(), Upgraded: v.Upgrade.count(),
	}
	said := map[Type][]Symptom{
		Gap:        {Missing},
		Divergent:  {Duplicates, DuplicatesDiffer, Wrong},
		Convergent: {Duplicates, DuplicatesDiffer, Wrong},
		Repeating:  {Duplicates},
	}[t]
	out := []Symptom{}
	for _, s := range symptoms() {
		if seen[s] > 0 && !slices.Contains(said, s) {
			out = append(out, s)
		}
	}
	return out
}
