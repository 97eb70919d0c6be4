package live

import (
	"context"
	"fmt"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
)

// moved is for a planned drill that was killed: where it has brought the service back, its
// note goes; else nothing is begun, since home would be taken for another node.
func (r *run) moved(n *note) error {
	s := r.d.ctl.Look(context.Background()) // which bounds itself
	if node, _ := writer(s.service(r.d.cfg.Service)); node != n.Home {
		return &tidegate.Error{
			Op: "drill", Subject: string(r.d.cfg.Service), Class: tidegate.Refused, Err: fmt.Errorf("drill %s has moved it away from %s, and was killed", n.Drill, n.Home),
			Hint: fmt.Sprintf("`tidegate failback %s --to %s`, or remove %s where it is to stay", r.d.cfg.Service, n.Home, r.state.note),
		}
	}
	r.leftOvers = append(r.leftOvers, evidence.LeftOver{What: "note of drill " + n.Drill, Where: r.state.note, Removed: true})
	return r.state.healed()
}
