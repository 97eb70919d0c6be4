package archive

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tidegate/tidegate"
)

// DrillsPrefix begins the names of all reports of drills. What is in them is
// docs/formats/evidence.md.
const DrillsPrefix = "drills/"

// DrillSuffix ends the names of reports, also outside of an archive.
const DrillSuffix = ".dsse.json"

const drillDigits = 10 // decimal: names sort as their numbers do

// Drill is what the name of a drill's report says. It has the number and nothing else
// of the report, so that of two writers of one number the second is refused.
type Drill struct {
	Service tidegate.ServiceName
	Number  uint64 // in the service's chain, from 1
}

// DrillPrefix begins the names of a service's reports.
func DrillPrefix(service tidegate.ServiceName) string { return DrillsPrefix + string(service) + "/" }

// File is the last part of the report's name, by which it goes outside of an archive.
func (d Drill) File() string { return fmt.Sprintf("%0*d%s", drillDigits, d.Number, DrillSuffix) }

// Name is the report's object.
func (d Drill) Name() string { return DrillPrefix(d.Service) + d.File() }

// ParseDrill takes a report's name apart; of any other name its error says why.
func ParseDrill(name string) (Drill, error) {
	e, err := Parse(name)
	if err == nil && e.Kind != KindDrill {
		err = fmt.Errorf("object %q: %w", name, errNotOurs)
	}
	return e.Drill, err
}

// ParseDrillFile takes a name apart that [Drill.File] made.
func ParseDrillFile(name string) (number uint64, ok bool) {
	stem, named := strings.CutSuffix(name, DrillSuffix)
	n, err := strconv.ParseUint(stem, 10, 64)
	return n, named && err == nil && n > 0 && Drill{Number: n}.File() == name
}

func parseDrill(rest string) (d Drill, err error) {
	service, file, ok := strings.Cut(rest, "/")
	number, named := ParseDrillFile(file)
	if !ok || !named || tidegate.ValidName(service) != nil {
		return d, errNotOurs
	}
	return Drill{tidegate.ServiceName(service), number}, nil
}
