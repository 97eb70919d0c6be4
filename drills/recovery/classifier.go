package recovery

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tidegate/tidegate"
)

// Classifier is the streaming form of [Classify]. What is due comes in the order of ids,
// within each stream, and outputs in the order in which they came; the two may be mixed:
// an output waits until what is due has come as far. What is kept is what is due and
// not delivered yet, what is not as it is due, and KeepMax outputs more a stream.
// Without a golden, every output is. Not safe for concurrent use.
type Classifier struct {
	settings Settings
	streams  map[tidegate.StreamName]*stream
	ended    bool
}

// New returns a classifier that has seen nothing.
func New(s Settings) *Classifier {
	s.MinTail = max(s.MinTail, 1)
	return &Classifier{settings: s, streams: map[tidegate.StreamName]*stream{}}
}

// Errors of a [Classifier].
var (
	errOrder = errors.New("what is due must come in the order of its ids, each once")
	errEpoch = errors.New("it is of the new writer's epoch, and came before that one began")
	errEnded = errors.New("the result was asked for already")
	errDue   = errors.New("the settings say that there is none")
)

func (c *Classifier) stream(id ID) (*stream, error) {
	if c.ended {
		return nil, fmt.Errorf("output %s: %w", id, errEnded)
	}
	s := c.streams[id.Stream]
	if s == nil {
		if err := tidegate.ValidName(string(id.Stream)); err != nil {
			return nil, fmt.Errorf("output id: stream: %w", err)
		}
		s = newStream(id.Stream, &c.settings)
		c.streams[id.Stream] = s
	}
	return s, nil
}

// Golden takes the next output that is due.
func (c *Classifier) Golden(o Output) error {
	s, err := c.stream(o.ID)
	if err != nil {
		return err
	}
	if c.settings.Due == DueUnknown {
		return fmt.Errorf("output %s is due: %w", o.ID, errDue)
	}
	if s.due > 0 && !s.dueTo.less(o.ID.place()) {
		return fmt.Errorf("output %s is due behind %s: %w", o.ID, s.id(s.dueTo), errOrder)
	}
	s.golden(o)
	return nil
}

// OldGolden takes an output that is due by the old program, before Golden has come as
// far.
func (c *Classifier) OldGolden(o Output) error {
	s, err := c.stream(o.ID)
	if err != nil {
		return err
	}
	if !c.settings.OldDue {
		return fmt.Errorf("output %s is due by the old program: %w", o.ID, errDue)
	}
	e := s.entry(o.ID.place())
	if e.oldDue || s.due > 0 && !s.dueTo.less(o.ID.place()) {
		return fmt.Errorf("output %s is due by the old program: %w", o.ID, errOrder)
	}
	e.oldDue, e.old = true, o.Digest
	return nil
}

// Before takes the next output that came until the failure.
func (c *Classifier) Before(o Output) error {
	s, err := c.stream(o.ID)
	if err != nil {
		return err
	}
	if c.settings.Epoch != 0 && o.Epoch >= c.settings.Epoch {
		return fmt.Errorf("output %s of epoch %s: %w", o.ID, o.Epoch, errEpoch)
	}
	s.arrive(delivery{o, fromOld})
	return nil
}

// After takes the next output that came from the takeover on, whoever sent it.
func (c *Classifier) After(o Output) error {
	s, err := c.stream(o.ID)
	if err != nil {
		return err
	}
	from := fromNew
	switch {
	case o.Epoch == 0:
		s.epochless = true
	case o.Epoch < c.settings.Epoch:
		from = fromStale
	}
	s.arrive(delivery{o, from})
	return nil
}

// Lost takes an output that is due by the old writer's recovered log alone.
func (c *Classifier) Lost(o Output) error {
	s, err := c.stream(o.ID)
	if err != nil {
		return err
	}
	if !c.settings.OldLog {
		return fmt.Errorf("output %s is lost: %w", o.ID, errDue)
	}
	s.lost.add(o.ID)
	return nil
}

// Result says how the service recovered. Nothing more can be taken afterwards.
func (c *Classifier) Result() Result {
	c.ended = true
	r := Result{
		Basis: ByIDs, Confidence: Certain, Content: c.settings.Due == DueContent, Reasons: []string{},
		MinTail: c.settings.MinTail, Horizon: c.settings.Horizon, Streams: []Vector{},
	}
	names := make([]tidegate.StreamName, 0, len(c.streams))
	for name := range c.streams {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		v, why := c.streams[name].result()
		r.Streams = append(r.Streams, v)
		for _, w := range why {
			r.Reasons = append(r.Reasons, fmt.Sprintf("%s: %s", name, w))
		}
	}
	if len(names) == 0 {
		r.Reasons = append(r.Reasons, "no output was seen, and none is due")
	}
	r.together()
	return r
}

// Kept returns how many outputs c keeps, of all streams.
func (c *Classifier) Kept() int {
	n := 0
	for _, s := range c.streams {
		n += len(s.entries) + len(s.waiting)
	}
	return n
}
