package lab_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/internal/lab"
)

// archived gives agents and standby nodes a bucket that all of them reach whatever is cut:
// a directory. They turn to it soon.
func archived(p lab.Plant) lab.Plant {
	p.Tune = func(name string, file map[string]any) {
		kind := filepath.Base(name)
		if kind != "agent.yaml" && kind != "standby.yaml" {
			return
		}
		file["archive"] = map[string]any{"url": "file://" + bucketOf(file)}
		if kind == "agent.yaml" {
			file["drop"] = map[string]any{"after": "1s", "back": "1s", "every": "50ms"}
		} else {
			file["drop"] = map[string]any{"every": "50ms", "look": "100ms"}
		}
	}
	return p
}

// bucketOf makes the directory of a lab that is everybody's bucket.
func bucketOf(file map[string]any) string {
	// A path of the machine's own data, which begins with the lab's directory.
	own, _ := file["data_dir"].(string)
	root := filepath.Join(filepath.Dir(filepath.Dir(own)), "bucket")
	if err := os.MkdirAll(root, 0o750); err != nil {
		panic(err)
	}
	return root
}

// The link is cut, and clients of a sync stream are served all the same: everything crosses
// by the archive, also for an agent that starts meanwhile. It goes back to the link by
// itself. In the end the primary site is lost while it crosses by the archive: what its
// agents have put there for nobody is not part of any log.
func byTheArchive(t *testing.T, a *act) {
	_, epoch := a.writer(t, a.Primaries(), 0)
	a.fault()
	a.link(t, a.Cut)
	a.crosses(t, "archive")
	a.note = fmt.Sprintf("by the archive after %s", since(a.begun))
	a.flows(t, "transfers by the archive")
	says(t, a.operate(t, 0, "doctor"), "crosses by the archive", "repair the live crossing")

	a.link(t, a.Mend)
	a.crosses(t, "live")
	a.flows(t, "transfers after the link is back")

	a.link(t, a.Cut)
	agent := a.Proc("agent-p1")
	agent.Kill()
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	a.flowsAbove(t, "transfers by the archive of the agent's next run", epoch)
	a.plan = a.failover(t)
	a.note += ", failover out of it: " + claimed(a.plan)
}

// crosses waits until every stream of the writer goes by a lane.
func (s *stage) crosses(t *testing.T, by string) {
	t.Helper()
	begun := time.Now()
	s.until(t, "the streams to go by the lane "+by, func(ctx context.Context) error {
		st, err := s.agentStatus(ctx, "p1")
		if err != nil {
			return err
		}
		var all []string
		for _, x := range st.Streams {
			switch {
			case x.Crossing == nil || x.Crossing.Lane != by:
				all = append(all, fmt.Sprintf("%s: %+v", x.Stream, x.Crossing))
			case x.Writer == nil || !x.Writer.RelayUp:
				all = append(all, string(x.Stream)+": no session")
			}
		}
		if len(all) > 0 {
			return fmt.Errorf("%s", strings.Join(all, "; "))
		}
		return nil
	})
	t.Logf("%s after %s", by, since(begun))
}
