package procgroup

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// HasVariable reports whether a process has a variable, as NAME=value, in the environment
// that it was started with. Of a zombie, and of another user's process for whoever may not
// read it, that is false.
func HasVariable(pid int, variable string) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && slices.Contains(strings.Split(string(text), "\x00"), variable)
}

// Find lists the processes of this machine, without this one, that is is true of.
func Find(is func(pid int) bool) (pids []int, err error) {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() && is(pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

const (
	endWithin = 10 * time.Second // that killed processes may take to go
	endPause  = 10 * time.Millisecond
)

// EndAll kills the processes that is is true of, also those that come meanwhile, and waits
// until there are none, for 10 seconds. It returns each that it has killed once.
func EndAll(is func(pid int) bool) (killed []int, err error) {
	for deadline := time.Now().Add(endWithin); ; {
		pids, err := Find(is)
		if err != nil || len(pids) == 0 {
			return killed, err
		}
		if time.Now().After(deadline) {
			return killed, fmt.Errorf("processes %v do not end", pids)
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return killed, fmt.Errorf("end process %d: %w", pid, err)
			}
			if !slices.Contains(killed, pid) {
				killed = append(killed, pid)
			}
		}
		time.Sleep(endPause) // they are no children of this process: nothing tells when they have ended
	}
}
