package pgrun

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
)

// Replica makes a hot standby of s by pg_basebackup, starts it and waits until
// it streams. Settings and HBA of cfg are its own; what it leaves out is s's.
func (s *Server) Replica(cfg Config) (*Server, error) {
	r, err := s.Copy("-replica", cfg)
	if err != nil {
		return nil, err
	}
	if err := r.follow(s); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (s *Server) follow(primary *Server) error {
	if err := s.Follow(primary); err != nil {
		return err
	}
	if err := s.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	return Poll(ctx, func(ctx context.Context) error {
		n, err := s.Text(ctx, "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'")
		if err == nil && n != "1" {
			err = fmt.Errorf("%s does not stream", s.Name)
		}
		return err
	})
}

// Copy makes a server of a base backup of s, which runs; suffix makes its name.
// It is not started: [Server.Follow] and [Server.RecoverTo] say what it becomes.
func (s *Server) Copy(suffix string, cfg Config) (*Server, error) {
	set := map[string]string{}
	maps.Copy(set, s.cfg.Settings)
	maps.Copy(set, cfg.Settings)
	cfg.Settings = set
	if cfg.Password == "" {
		cfg.Password = s.Password
	}
	return build(s.Name+suffix, cfg, func(r *Server) error {
		return s.backup(r.DataDir, "-X", "stream")
	})
}

// Follow makes s, which must not be running, a standby of primary at its next start.
func (s *Server) Follow(primary *Server) error {
	return s.recover("standby.signal", map[string]string{"primary_conninfo": primary.Conn("application_name=" + s.Name)})
}

// RecoverTo makes s, a copy that has not been started, take in the log in a
// directory of segments at its next start, up to the first record that begins at
// lsn or later, and then be a primary of its own; an empty lsn is the log's end.
// The account must be able to read the directory, which is not changed.
func (s *Server) RecoverTo(segments, lsn string) error {
	set := map[string]string{"restore_command": "cp " + filepath.Join(segments, "%f") + " %p"}
	if lsn != "" {
		set["recovery_target_lsn"], set["recovery_target_inclusive"], set["recovery_target_action"] = lsn, "off", "promote"
	}
	return s.recover("recovery.signal", set)
}

func (s *Server) recover(signal string, set map[string]string) error {
	if err := s.configure(set); err != nil {
		return err
	}
	// pg_basebackup and pg_rewind bring the primary's own along, which would win.
	if err := os.Remove(filepath.Join(s.DataDir, "postgresql.auto.conf")); err != nil && !os.IsNotExist(err) {
		return err
	}
	return s.Install.WriteFile(filepath.Join(s.DataDir, signal), "", 0o600)
}

// Adopt makes a server of a data directory that fill makes, for backups of the
// caller's own: it is configured and not started. cfg's zero value has no
// settings of the original.
func Adopt(name string, cfg Config, fill func(dataDir string) error) (*Server, error) {
	return build(name, cfg, func(s *Server) error {
		if err := os.Mkdir(s.DataDir, 0o700); err != nil {
			return err
		}
		if err := fill(s.DataDir); err != nil {
			return err
		}
		if err := s.configure(nil); err != nil {
			return err
		}
		return filepath.WalkDir(s.DataDir, func(path string, _ os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, int(s.Install.Account.UID), int(s.Install.Account.GID))
		})
	})
}
