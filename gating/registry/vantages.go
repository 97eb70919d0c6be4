package registry

import (
	"context"
	"encoding/json"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/detect"
)

// vantagesTable is not live: it changes each second, and only the failure
// detector looks at it.
const vantagesTable = "vantages/"

// Vantage is what one gate sees of every service's primary, written about once a
// second. Durations are on that gate's own clock; a reader tells how old it is
// by when it saw Step change, on its own.
type Vantage struct {
	Gate   string              `json:"gate"`
	Site   tidegate.SiteName   `json:"site"`
	Step   uint64              `json:"step,string"` // grows with each writing of one run of the gate
	Run    tidegate.ID         `json:"run"`         // drawn at the gate's start
	At     tidegate.Instant    `json:"at"`          // on the gate's boot clock
	Asleep time.Duration       `json:"asleep"`      // longest pause of the gate since the writing before, nanoseconds
	Sees   []tidegate.SiteName `json:"sees"`        // other sites whose vantage points it has seen lately
	Sights []Sight             `json:"sights"`
}

// Sight is one vantage point's observation of one service.
type Sight struct {
	Service  tidegate.ServiceName `json:"service"`
	Kind     detect.Kind          `json:"kind"`
	Outcome  detect.Outcome       `json:"outcome"`
	Silent   *time.Duration       `json:"silent"` // since the last contact, nanoseconds; nil: there was none
	Progress []detect.Progress    `json:"progress,omitempty"`
	Detail   string               `json:"detail,omitempty"` // for people
}

// PutVantage writes what a gate sees; it is nobody else's record.
func (s *Store) PutVantage(ctx context.Context, v Vantage) error {
	_, err := s.Commit(ctx, new(Tx).Put(Key(vantagesTable+v.Gate), v))
	return err
}

// Vantages reads what every gate has seen last, those that are gone included,
// sorted by name.
func (s *Store) Vantages(ctx context.Context) ([]Vantage, error) {
	var out []Vantage
	err := s.list(ctx, vantagesTable, func(k Key, b []byte) error {
		var v Vantage
		if err := json.Unmarshal(b, &v); err != nil {
			return corrupt(k, err)
		}
		out = append(out, v)
		return nil
	})
	return out, err
}
