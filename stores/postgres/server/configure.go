package server

import (
	"fmt"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tidegate/tidegate"
)

const (
	ownBegin = "# begin of what tidegate needs; replaced at every start\n"
	ownEnd   = "# end of what tidegate needs\n"
)

// configure writes all configuration into data, which is, or will be, at the
// server's place. primary are the primary's settings, for a built configuration.
func (s *Server) configure(data string, p Purpose, primary map[string]string) error {
	release, err := s.release(data)
	if err != nil {
		return err
	}
	if err := s.writeConfig(data, primary); err != nil {
		return err
	}
	auto, err := readFile(s.fsys, filepath.Join(data, autoConfigFile))
	if err != nil {
		return err
	}
	settings := append(s.cfg.operator(), s.cfg.places(s.cfg.Home)...)
	if s.cfg.managed() {
		settings = append(settings, s.servicePlaces()...)
	}
	if p == Follow {
		b, err := readFile(s.fsys, filepath.Join(data, controlFile))
		if err != nil {
			return err
		}
		control, err := ParseControl(b)
		if err != nil {
			return err
		}
		settings = append(settings, s.cfg.following(release, control)...)
	}
	if err := s.replace(filepath.Join(data, autoConfigFile), overlay(auto, settings)); err != nil {
		return err
	}
	return s.writeAccess(data)
}

// release reads the major version that the data directory is of.
func (s *Server) release(data string) (int, error) {
	text, err := readFile(s.fsys, filepath.Join(data, versionFile))
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read %s: want a number (got %q)", versionFile, text)
	}
	return n, nil
}

// writeConfig builds postgresql.conf where the base has none: Debian keeps it
// outside of the data directory, where no base backup looks.
func (s *Server) writeConfig(data string, primary map[string]string) error {
	path := filepath.Join(data, configFile)
	have, err := s.exists(path)
	if err != nil || have && !s.cfg.Build {
		return err
	}
	if have {
		text, err := readFile(s.fsys, path)
		if err != nil || strings.HasPrefix(string(text), builtHeader) {
			return err // built at an earlier start
		}
		// The base's own stays beside it, for the operator to look at.
		if err := s.fsys.Rename(path, path+".base"); err != nil {
			return err
		}
	}
	return s.replace(path, append([]byte(builtHeader), formatSettings(carried(primary))...))
}

const builtHeader = "# Made by tidegate: from the primary's settings, without those that name files.\n" +
	"# Settings of this node are in postgresql.auto.conf, which wins.\n"

// writeAccess puts the line that lets this process in before the others of
// pg_hba.conf, of which the first that matches decides, and its map before those
// of pg_ident.conf.
func (s *Server) writeAccess(data string) error {
	me, err := user.Current()
	if err != nil {
		return &tidegate.Error{
			Op: "look up the user of this process", Class: tidegate.Misuse, Err: err,
			Hint: "the user needs an entry in /etc/passwd: the server asks the kernel who connects",
		}
	}
	role := `"` + s.cfg.User + `"`
	lines := []string{
		"local all " + role + " peer map=tidegate",
		"local replication " + role + " peer map=tidegate",
	}
	hba, err := readFile(s.fsys, filepath.Join(data, hbaFile))
	if err != nil {
		return err
	}
	rest, first := withoutOwn(hba)
	if first && len(s.cfg.HBA) > 0 && len(rest) > 0 {
		// The base's own lines stay beside it, for the operator to look at.
		if err := s.replace(filepath.Join(data, hbaFile+".base"), rest); err != nil {
			return err
		}
		rest = nil
	}
	if first && len(s.cfg.HBA) == 0 && len(strings.TrimSpace(string(rest))) == 0 {
		rest = []byte("local all all peer\nhost all all all scram-sha-256\n")
	}
	lines = append(lines, s.cfg.HBA...)
	if err := s.replace(filepath.Join(data, hbaFile), withOwn(lines, rest)); err != nil {
		return err
	}
	ident, err := readFile(s.fsys, filepath.Join(data, identFile))
	if err != nil {
		return err
	}
	maps := []string{
		fmt.Sprintf(`tidegate "%s" %s`, me.Username, role),
		// Whoever could by plain "peer" still can.
		`tidegate /^(.*)$ \1`,
	}
	rest, _ = withoutOwn(ident)
	return s.replace(filepath.Join(data, identFile), withOwn(maps, rest))
}

func withOwn(lines []string, rest []byte) []byte {
	return append([]byte(ownBegin+strings.Join(lines, "\n")+"\n"+ownEnd), rest...)
}

// withoutOwn returns the text without what an earlier start put before it; first
// is true when there was no such start.
func withoutOwn(text []byte) (rest []byte, first bool) {
	after, found := strings.CutPrefix(string(text), ownBegin)
	if !found {
		return text, true
	}
	_, tail, found := strings.Cut(after, ownEnd)
	if !found {
		return text, true
	}
	return []byte(tail), false
}

// ConfigFiles names the files of a data directory that settings of a node are
// written to. The map is the caller's.
func ConfigFiles() map[string]bool {
	return map[string]bool{
		configFile: true, autoConfigFile: true, hbaFile: true, identFile: true,
		configFile + ".base": true, hbaFile + ".base": true, // what was there before
	}
}
