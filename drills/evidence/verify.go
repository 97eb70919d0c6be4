package evidence

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
)

// What can be wrong with evidence; each [Finding] is one of these.
var (
	ErrUnreadable = errors.New("unreadable")   // it is no report in an envelope
	ErrTampered   = errors.New("tampered")     // its bytes are not those that were signed
	ErrWrongKey   = errors.New("wrong key")    // no key that is trusted has signed it
	ErrMissing    = errors.New("missing link") // reports that the chain must have are not there
	ErrReordered  = errors.New("reordered")    // it stands where another report belongs
	ErrForked     = errors.New("forked")       // it does not follow the report before it, or has the number of another
	ErrTruncated  = errors.New("truncated")    // the chain has not got the head that was noted
)

// VerifyOptions says what is demanded beside sound signatures and links.
type VerifyOptions struct {
	Whole bool   // each chain begins with report 1
	Heads []Hash // noted outside; each is the hash of a report that is there
}

// Finding is something that is wrong. Name, Service and Number are zero where it is
// not of one file.
type Finding struct {
	Name    string
	Service tidegate.ServiceName
	Number  Number
	Err     error // errors.Is one of the above
}

// Kind is what is wrong, in a word or two.
func (f Finding) Kind() string {
	for _, kind := range []error{ErrUnreadable, ErrTampered, ErrWrongKey, ErrMissing, ErrReordered, ErrForked, ErrTruncated} {
		if errors.Is(f.Err, kind) {
			return kind.Error()
		}
	}
	return ""
}

func (f Finding) String() string {
	if f.Name == "" {
		return f.Err.Error()
	}
	return fmt.Sprintf("%s: %v", f.Name, f.Err)
}

// Chain is the reports of one service, ascending. They are to be believed only where
// [Proof.Findings] is empty.
type Chain struct {
	Service     tidegate.ServiceName
	First, Last Number
	Head        Hash
	Anchored    Number // the newest report whose hash was among Heads; 0: none
	Reports     []Sealed
}

// Proof is what came of a verification.
type Proof struct {
	Chains   []Chain // by service
	Findings []Finding
}

// Err is nil where nothing was found; it names the first finding, and is of the class
// corrupt.
func (p Proof) Err() error {
	if len(p.Findings) == 0 {
		return nil
	}
	err := p.Findings[0].Err
	return &tidegate.Error{
		Op: "verify evidence", Subject: p.Findings[0].Name, Class: tidegate.Corrupt, Err: err,
		Hint: hintOf(err),
	}
}

func hintOf(err error) string {
	switch {
	case errors.Is(err, ErrWrongKey):
		return "name every key that has signed reports: --key FILE, once for each"
	case errors.Is(err, ErrMissing), errors.Is(err, ErrTruncated):
		return "look for another copy of the evidence; what is missing cannot be made again"
	}
	return "do not rely on what is named; look for another copy of it"
}

// Verify checks files against the keys that are trusted, of which there must be one,
// and the chains that they make. The order of files is the order in which the reports
// of each service are said to stand.
func Verify(files []File, trusted []PublicKey, o VerifyOptions) Proof {
	v := verification{trusted: map[KeyID]bool{}, bad: map[Hash]bool{}}
	var err error
	if v.verifier, err = verifierOf(trusted, v.trusted); err != nil {
		v.find(Finding{Err: err})
		return v.proof
	}
	byService := map[tidegate.ServiceName][]Sealed{}
	for _, f := range files {
		if s, ok := v.open(f); ok {
			byService[s.Report.Service] = append(byService[s.Report.Service], s)
		}
	}
	for service, reports := range byService {
		v.order(reports)
		slices.SortStableFunc(reports, func(a, b Sealed) int { return cmp.Compare(a.Report.Number, b.Report.Number) })
		v.links(reports, o.Whole)
		newest := reports[len(reports)-1]
		v.proof.Chains = append(v.proof.Chains, Chain{
			Service: service, First: reports[0].Report.Number, Last: newest.Report.Number, Head: newest.Hash, Reports: reports,
		})
	}
	slices.SortFunc(v.proof.Chains, func(a, b Chain) int { return cmp.Compare(a.Service, b.Service) })
	v.heads(o.Heads)
	slices.SortStableFunc(v.proof.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Number, b.Number))
	})
	return v.proof
}

// verification is the state of one Verify.
type verification struct {
	verifier *dsse.EnvelopeVerifier
	trusted  map[KeyID]bool
	bad      map[Hash]bool // reports with a finding: what follows them is no news
	proof    Proof
}

func verifierOf(keys []PublicKey, ids map[KeyID]bool) (*dsse.EnvelopeVerifier, error) {
	var each []dsse.Verifier
	for _, k := range keys {
		if !ids[k.ID()] {
			each = append(each, checking{k})
		}
		ids[k.ID()] = true
	}
	if len(each) == 0 {
		return nil, fmt.Errorf("%w: no key is trusted", ErrWrongKey)
	}
	return dsse.NewEnvelopeVerifier(each...)
}

func (v *verification) find(f Finding) { v.proof.Findings = append(v.proof.Findings, f) }

// of is a finding of one report.
func (v *verification) of(s Sealed, err error) {
	v.bad[s.Hash] = true
	v.find(Finding{s.Name, s.Report.Service, s.Report.Number, fmt.Errorf("report %d of %s: %w", s.Report.Number, s.Report.Service, err)})
}

// open opens a file and checks its signature. Without a readable report it has no place
// in any chain.
func (v *verification) open(f File) (Sealed, bool) {
	s, err := unwrap(f)
	if err != nil {
		v.find(Finding{Name: f.Name, Err: fmt.Errorf("%w: %w", ErrUnreadable, err)})
		return s, false
	}
	unsigned := v.signature(s)
	s.Report, err = Parse(s.Payload)
	switch {
	case err != nil && unsigned != nil:
		v.find(Finding{Name: f.Name, Err: unsigned})
	case err != nil:
		v.find(Finding{Name: f.Name, Err: fmt.Errorf("%w: %w", ErrUnreadable, err)})
	case unsigned != nil:
		v.of(s, unsigned)
	}
	return s, err == nil
}

// signature is nil where a key that is trusted has signed the bytes.
func (v *verification) signature(s Sealed) error {
	_, err := v.verifier.Verify(context.Background(), &s.envelope)
	known := slices.ContainsFunc(s.KeyIDs, func(id KeyID) bool { return v.trusted[id] || id == "" })
	switch {
	case err == nil:
		return nil
	case len(s.KeyIDs) == 0:
		return fmt.Errorf("%w: it has no signature", ErrTampered)
	case known:
		return fmt.Errorf("%w: the bytes are not those that key %.16s has signed", ErrTampered, s.KeyIDs[0])
	}
	return fmt.Errorf("%w: it is signed with key %.16s, which is not trusted", ErrWrongKey, s.KeyIDs[0])
}

// order compares where the reports stand with their numbers.
func (v *verification) order(reports []Sealed) {
	for i, s := range reports {
		misplaced := placed(s.Name, &s.Report)
		switch {
		case misplaced != nil:
			v.of(s, misplaced)
		case i > 0 && s.Report.Number < reports[i-1].Report.Number:
			v.of(s, fmt.Errorf("%w: it stands behind report %d", ErrReordered, reports[i-1].Report.Number))
		}
	}
}

// placed is an error where a report's name is another's: below [archive.DrillsPrefix],
// wherever that was copied to, it says the service, and anywhere the number.
func placed(name string, r *Report) error {
	if i := strings.LastIndex("/"+name, "/"+archive.DrillsPrefix); i >= 0 {
		if d, err := archive.ParseDrill(name[i:]); err == nil && d.Service != r.Service {
			return fmt.Errorf("%w: it lies where reports of %s belong", ErrReordered, d.Service)
		}
	}
	if number, is := archive.ParseDrillFile(path.Base(name)); is && Number(number) != r.Number {
		return fmt.Errorf("%w: it lies where report %d belongs", ErrReordered, number)
	}
	return nil
}

// links follows a chain whose reports are ascending.
func (v *verification) links(reports []Sealed, whole bool) {
	if first := reports[0].Report; whole && first.Number > 1 {
		v.missing(first.Service, 1, first.Number-1)
	}
	for i, s := range reports[1:] {
		before, r := reports[i], s.Report
		switch {
		case r.Number > before.Report.Number+1:
			v.missing(r.Service, before.Report.Number+1, r.Number-1)
		case r.Number == before.Report.Number && s.Hash == before.Hash:
			v.of(s, fmt.Errorf("%w: %s is the same report", ErrForked, before.Name))
		case r.Number == before.Report.Number:
			v.of(s, fmt.Errorf("%w: %s has this number, too", ErrForked, before.Name))
		case v.bad[before.Hash] || *r.Previous == before.Hash: // of number 2 and more it is there: see check
		default:
			v.of(s, fmt.Errorf("%w: it follows a report %d with the hash %.16s, and not this one with %.16s", ErrForked, before.Report.Number, *r.Previous, before.Hash))
		}
	}
}

func (v *verification) missing(service tidegate.ServiceName, first, last Number) {
	what := fmt.Errorf("%s: %w: report %d is not there", service, ErrMissing, first)
	if last > first {
		what = fmt.Errorf("%s: %w: reports %d to %d are not there", service, ErrMissing, first, last)
	}
	v.find(Finding{Service: service, Number: first, Err: what})
}

// heads looks for the hashes that were noted outside.
func (v *verification) heads(noted []Hash) {
	for _, h := range noted {
		found := false
		for i := range v.proof.Chains {
			c := &v.proof.Chains[i]
			if at := slices.IndexFunc(c.Reports, func(s Sealed) bool { return s.Hash == h }); at >= 0 {
				found, c.Anchored = true, max(c.Anchored, c.Reports[at].Report.Number)
			}
		}
		if !found {
			v.find(Finding{Err: fmt.Errorf("%w: no report has the hash %s that was noted: it was removed or replaced%s", ErrTruncated, h, v.ends())})
		}
	}
}

// ends says how far the chains go.
func (v *verification) ends() (text string) {
	for _, c := range v.proof.Chains {
		text += fmt.Sprintf("; the chain of %s ends with report %d", c.Service, c.Last)
	}
	return text
}
