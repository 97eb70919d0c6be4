package server

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/tidegate/tidegate"
)

// optsFile is the command line of a server's last start, written by itself
// (postmaster.c, CreateOptsFile): the program, and each argument in quotes.
const optsFile = "postmaster.opts"

// StartAsItWas starts a server of somebody else's (Config.Data) that was stopped
// here, with the command line that it had, or by its [Service]: nothing of it is configured. [Server.Run]
// does not look after it. A server that runs is left alone.
func (s *Server) StartAsItWas(ctx context.Context) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	defer s.give()
	running, err := s.Running()
	if err == nil && !running {
		err = s.asItWas(ctx)
	}
	if err != nil {
		return s.failed("start server in", err)
	}
	return nil
}

func (s *Server) asItWas(ctx context.Context) error {
	if s.cfg.managed() {
		return s.startService(ctx)
	}
	text, err := readFile(s.fsys, s.inData(optsFile))
	if err != nil {
		return err
	}
	args, err := parseOpts(string(text))
	if err != nil {
		return &tidegate.Error{
			Op: "read", Subject: s.inData(optsFile), Class: tidegate.Permanent, Err: err,
			Hint: "start the server as you always do",
		}
	}
	if err := s.makeHome(); err != nil {
		return err
	}
	from, err := s.logEnd()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.launched, s.found = from, true
	s.mu.Unlock()
	c, err := s.launch(args)
	if err != nil {
		return err
	}
	return s.placed(ctx, c)
}

func parseOpts(text string) (args []string, err error) {
	program, rest, _ := strings.Cut(strings.TrimRight(text, "\n"), ` "`)
	if !filepath.IsAbs(program) || strings.Contains(rest, "\n") {
		return nil, fmt.Errorf("want the path of a program and its arguments in quotes (got %q)", text)
	}
	args = []string{program}
	if rest == "" {
		return args, nil
	}
	rest, ok := strings.CutSuffix(rest, `"`)
	if !ok {
		return nil, fmt.Errorf("want every argument in quotes (got %q)", text)
	}
	return append(args, strings.Split(rest, `" "`)...), nil
}
