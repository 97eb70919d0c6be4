package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

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

// endWithin bounds how long a process may take to end that was killed.
const endWithin = 10 * time.Second

// endMarked kills every process that has a variable in its environment, and waits for its
// end. Processes of others, whose environment is not to be read, have none of ours.
func endMarked(mark string) error {
	for began := time.Now(); ; {
		pids, err := marked(mark)
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Since(began) > endWithin {
			return fmt.Errorf("processes %v do not end", pids)
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		time.Sleep(endPause)
	}
}

const endPause = 20 * time.Millisecond

func marked(mark string) (pids []int, err error) {
	all, err := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range all {
		text, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(append([]byte{0}, text...), append(append([]byte{0}, mark...), 0)) {
			continue // it is gone, or nobody's of ours
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids, err
}
