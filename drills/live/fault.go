package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/probe"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/procgroup"
	"github.com/tidegate/tidegate/internal/vfs"
)

// healTries bounds how often a command that heals is run.
const healTries = 3

// note is what a drill writes down before it injects a fault, and removes when that is
// healed: the next drill heals what a killed one has left.
type note struct {
	Drill    string    `json:"drill"`
	Scenario Scenario  `json:"scenario"`
	At       time.Time `json:"at"`
	Heal     []Command `json:"heal"` // of a fault
	Home     string    `json:"home"` // of a service that moves: the node that it moves back to
}

// state is the files of a service's live drills, which lie on this machine wherever their
// evidence does.
type state struct {
	fs   vfs.FS
	note string
	lock *os.File
}

// openState takes the service for this drill, or says that another one has it.
func openState(fsys vfs.FS, cfg *Config) (*state, error) {
	dir := cfg.Evidence.State
	if err := durable.MkdirAll(fsys, dir); err != nil {
		return nil, err
	}
	s := &state{fs: fsys, note: filepath.Join(dir, "live-"+string(cfg.Service)+".fault.json")}
	f, err := os.OpenFile(filepath.Join(dir, "live-"+string(cfg.Service)+".lock"), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) //nolint:gosec // a descriptor
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = &tidegate.Error{
			Op: "begin drill of", Subject: string(cfg.Service), Class: tidegate.Refused, Err: fmt.Errorf("another live drill of it runs: %w", tidegate.ErrConflict), Hint: "wait for its end",
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	s.lock = f
	return s, nil
}

// close gives the service back. A process that is being started at this moment may have
// the file still: closing it alone would leave it locked until then.
func (s *state) close() error {
	return errors.Join(unix.Flock(int(s.lock.Fd()), unix.LOCK_UN), s.lock.Close()) //nolint:gosec // a descriptor
}

// closed is close behind an error.
func (s *state) closed(err error) error { return errors.Join(err, s.close()) }

// open writes down that a fault will be there; durable when it returns.
func (s *state) open(n note) error {
	text, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(s.fs, s.note, append(text, '\n'))
}

// healed removes the note.
func (s *state) healed() error {
	if err := s.fs.Remove(s.note); err != nil && !errors.Is(err, tidegate.ErrNotFound) {
		return err
	}
	return s.fs.SyncDir(filepath.Dir(s.note))
}

// left is the note of a drill that was killed; nil: there is none.
func (s *state) left() (*note, error) {
	text, err := os.ReadFile(s.note)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // as documented
	}
	if err != nil {
		return nil, err
	}
	n := &note{}
	if err := json.Unmarshal(text, n); err != nil {
		return nil, &tidegate.Error{
			Op: "read", Subject: s.note, Class: tidegate.Corrupt, Err: err, Hint: "a drill has injected a fault and was killed: heal it by hand, then remove the file",
		}
	}
	return n, nil
}

// command runs one command to its end.
func (r *run) command(ctx context.Context, c *Command, env map[string]string) error {
	asker := probe.New(r.d.clk, place{"", r.addresses, r.id.String()}, env)
	defer asker.Close()
	_, err := asker.Ask(ctx, &probe.Ask{Command: &probe.Command{Run: c.Run}, Timeout: c.Timeout})
	if err != nil {
		return fmt.Errorf("run %s: %w", strings.Join(c.Run, " "), err)
	}
	return nil
}

// note writes down what this drill is about to do.
func (r *run) note(heal []Command) error {
	return r.state.open(note{Drill: r.id.String(), Scenario: r.d.opts.Scenario, At: r.d.clk.Wall().UTC(), Heal: heal, Home: r.home})
}

// injecting marks what injects a fault, with the drill's id: it may outlive a drill that
// is killed, and would go on behind the heal.
const injecting = "TIDEGATE_INJECT"

// inject makes the fault.
func (r *run) inject(ctx context.Context) error {
	f := r.d.cfg.Faults[r.d.opts.Scenario]
	if err := r.note(f.Heal); err != nil {
		return calledError{fmt.Errorf("write down that a fault will be injected: %w", err)}
	}
	r.open = f.Heal
	for i := range f.Inject {
		began := r.d.clk.Boot()
		r.tell(func() {
			if r.fault, r.part = &began, during; i == 0 {
				r.first = &began
			}
		})
		if err := r.command(ctx, &f.Inject[i], map[string]string{injecting: r.id.String()}); err != nil {
			return calledError{fmt.Errorf("the fault could not be injected: %w", err)}
		}
		if err := r.sleep(ctx, f.Inject[i].Then); err != nil {
			return err
		}
	}
	return nil
}

// heal ends the fault, whatever has become of the drill. What could not be healed is a
// left-over, and its note stays.
func (r *run) heal(s Scenario, all []Command) error {
	if len(all) == 0 {
		return nil
	}
	ctx := context.Background() // the drill's own may have ended, and this must come to its end
	var failed []error
	for i := range all {
		if err := r.healOne(ctx, &all[i]); err != nil {
			failed = append(failed, err)
			r.leftOvers = append(r.leftOvers, evidence.LeftOver{What: "fault " + string(s), Where: strings.Join(all[i].Run, " ")})
		}
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	r.open = nil
	return r.state.healed()
}

func (r *run) healOne(ctx context.Context, c *Command) (err error) {
	for try := range healTries {
		if try > 0 {
			_ = r.sleep(ctx, r.d.pace.heal) // which nobody ends
		}
		if err = r.command(ctx, c, nil); err == nil {
			return r.sleep(ctx, c.Then)
		}
	}
	return err
}

// clean heals what a killed drill has left.
func (r *run) clean() error {
	n, err := r.state.left()
	if err != nil || n == nil {
		return err
	}
	if len(n.Heal) == 0 {
		return r.moved(n)
	}
	killed, err := procgroup.EndAll(func(pid int) bool { return procgroup.HasVariable(pid, injecting+"="+n.Drill) })
	for _, pid := range killed {
		r.leftOvers = append(r.leftOvers, evidence.LeftOver{What: "process", Where: fmt.Sprintf("pid %d of drill %s", pid, n.Drill), Removed: err == nil})
	}
	if err != nil {
		return fmt.Errorf("end what drill %s has left: %w", n.Drill, err)
	}
	was := len(r.leftOvers)
	if err := r.heal(n.Scenario, n.Heal); err != nil {
		return &tidegate.Error{
			Op: "heal what drill " + n.Drill + " has left of", Subject: string(n.Scenario), Class: tidegate.Refused, Err: err,
			Hint: "heal it by hand, then remove " + r.state.note,
		}
	}
	r.leftOvers = append(r.leftOvers[:was], evidence.LeftOver{What: fmt.Sprintf("fault %s of drill %s", n.Scenario, n.Drill), Where: r.state.note, Removed: true})
	return nil
}
