package server

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/tidegate/tidegate"
)

// Service are the programs by which somebody else starts and stops the server: a
// service manager that would start again what it has not stopped itself. Each is a
// path with arguments, run by this process's user and without a shell; both or
// neither are set.
//
// An exit status of 0 is the answer that it is done. Start may end before the
// server takes connections; Stop must not end before the server has, and must do
// nothing where it does not run, for it is also run to tell the manager that the
// server is to stay down.
type Service struct {
	Start []string
	Stop  []string
}

// managed reports whether somebody else starts and stops the server.
func (c Config) managed() bool { return len(c.Service.Start) > 0 }

func (v Service) validate(bad func(key, rule string, got any)) {
	if (len(v.Start) == 0) != (len(v.Stop) == 0) {
		bad("server", "want both start and stop, or neither", fmt.Sprintf("start %q, stop %q", v.Start, v.Stop))
	}
	for key, line := range map[string][]string{"server.start": v.Start, "server.stop": v.Stop} {
		if len(line) > 0 && !filepath.IsAbs(line[0]) {
			bad(key, "want the absolute path of a program, then its arguments", strings.Join(line, " "))
		}
	}
}

// servicePlaces are the settings that a manager's command line does not have as
// this package's own has them. Debian's names its postgresql.conf in /etc, which
// names the other files there; postgresql.auto.conf wins over that.
func (s *Server) servicePlaces() []setting {
	return []setting{{"hba_file", s.inData(hbaFile)}, {"ident_file", s.inData(identFile)}}
}

// startService has the server started and waits until its process has its place.
// The program may run on after that: many wait until the server takes connections.
func (s *Server) startService(ctx context.Context) error {
	running, giveUp := context.WithCancel(context.Background())
	c, err := s.runService(running, s.cfg.Service.Start)
	if err != nil {
		giveUp()
		return s.serviceError("start", err)
	}
	stop := context.AfterFunc(ctx, giveUp)
	bounded, cancel := context.WithTimeoutCause(ctx, s.cfg.StopTimeout, errSlow)
	defer cancel()
	done := c.done
	err = every(bounded, placeEvery, func() (bool, error) {
		if placed, err := s.Running(); err != nil || placed {
			return placed, err
		}
		select {
		case <-done:
			done = nil
			return false, c.err
		default:
			return false, nil
		}
	})
	if err == nil {
		stop() // it outlives ctx
		return nil
	}
	giveUp()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return s.serviceError("start", fmt.Errorf("no server has its place in the data directory: %w", err))
}

// stopService has the server stopped. What still runs when the time is over, or
// after the program of a stop that must be at once has failed, is ended here; the
// error says that the manager may start it again.
func (s *Server) stopService(ctx context.Context, m StopMode) error {
	s.hangUp(ctx)
	err := s.stopByProgram(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && m == StopFast && !errors.Is(err, errSlow) {
		return err // it may serve on: nothing has begun that must be ended
	}
	p, findErr := s.find()
	if findErr != nil || p == nil {
		return errors.Join(err, findErr)
	}
	defer p.close()
	s.log.Warn("server runs although its own program was to stop it: stopping it at once", "home", s.cfg.Home, "err", err)
	return errors.Join(err, s.signalAndWait(ctx, p, syscall.SIGQUIT))
}

func (s *Server) stopByProgram(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.StopTimeout, errSlow)
	defer cancel()
	c, err := s.runService(ctx, s.cfg.Service.Stop)
	if err == nil {
		<-c.done // ctx kills it
		err = c.err
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return s.serviceError("stop", err)
	}
	return nil
}

// runService starts one of the programs, to be killed when ctx ends. It is run by
// this process's user: the account may seldom manage services.
func (s *Server) runService(ctx context.Context, line []string) (*child, error) {
	if err := s.makeHome(); err != nil {
		return nil, err
	}
	s.log.Info("running the server's own program", "home", s.cfg.Home, "program", line)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	s.asAccount(cmd)
	cmd.SysProcAttr.Credential = nil
	return s.spawn(cmd)
}

func (s *Server) serviceError(verb string, err error) error {
	line := s.cfg.Service.Start
	if verb == "stop" {
		line = s.cfg.Service.Stop
	}
	return &tidegate.Error{
		Op: "run program to " + verb + " server", Subject: strings.Join(line, " "), Class: tidegate.Transient, Err: err,
		Hint: "it must " + verb + " the server of " + s.DataDir() + " and exit with 0; what it says is in " + s.LogPath() + "; it is run again",
	}
}
