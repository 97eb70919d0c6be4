package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

// Names within a home. Data and tablespaces are in one directory, so that one
// rename gives a restored base its name, or moves it aside.
const (
	clusterDir    = "cluster"
	restoringDir  = "restoring"
	rewindingDir  = "rewinding"
	dataDir       = "data"
	tablespaceDir = "tablespaces"
	runDir        = "run"
	logDir        = "log"
	logFile       = "server.log"
	olderLogFile  = "server.log.1"
)

// Names within a data directory.
const (
	standbySignal  = "standby.signal"
	recoverySignal = "recovery.signal"
	pidFile        = "postmaster.pid"
	configFile     = "postgresql.conf"
	autoConfigFile = "postgresql.auto.conf"
	hbaFile        = "pg_hba.conf"
	identFile      = "pg_ident.conf"
	versionFile    = "PG_VERSION"
	controlFile    = "global/pg_control"
	backupLabel    = "backup_label"
	tablespaceMap  = "tablespace_map"
	tablespaceLink = "pg_tblspc"
	walDir         = "pg_wal"
)

// DataDir is the server's data directory.
func (s *Server) DataDir() string {
	if s.cfg.Data != "" {
		return s.cfg.Data
	}
	return filepath.Join(s.cfg.Home, clusterDir, dataDir)
}

// ownData refuses what is done to a home's own data only.
func (s *Server) ownData() error {
	if s.cfg.Data == "" {
		return nil
	}
	return fmt.Errorf("the data is outside of the home, in %s: %w", s.cfg.Data, tidegate.ErrConflict)
}

// SocketDir is the directory of the socket that this package's own connections
// use, whatever else the server listens on.
func (s *Server) SocketDir() string { return filepath.Join(s.cfg.Home, runDir) }

// LogPath is the file that the server's messages go to.
func (s *Server) LogPath() string { return filepath.Join(s.cfg.Home, logDir, logFile) }

func (s *Server) inData(name string) string { return filepath.Join(s.DataDir(), name) }

// own gives a file or directory to the account.
func (s *Server) own(path string) error {
	if s.cfg.Account == nil {
		return nil
	}
	return os.Lchown(path, int(s.cfg.Account.UID), int(s.cfg.Account.GID))
}

// makeHome makes the home and what is in it beside the data.
func (s *Server) makeHome() error {
	for _, dir := range []string{s.cfg.Home, s.SocketDir(), filepath.Dir(s.LogPath())} {
		if err := durable.MkdirAll(s.fsys, dir); err != nil {
			return err
		}
		if err := s.own(dir); err != nil {
			return err
		}
	}
	return nil
}

// replace writes a small file of the account's, durably.
func (s *Server) replace(path string, text []byte) error {
	if err := durable.WriteFile(s.fsys, path, text); err != nil {
		return err
	}
	return s.own(path)
}

// exists reports whether there is a file or directory.
func (s *Server) exists(path string) (bool, error) {
	_, err := s.fsys.Stat(path)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, tidegate.ErrNotFound):
		return false, nil
	}
	return false, err
}

// smallFileMax bounds what is read whole: configuration and labels.
const smallFileMax = 4 << 20

// readFile reads a small file; nil and no error when there is none.
func readFile(fsys vfs.FS, path string) ([]byte, error) {
	f, err := fsys.Open(path)
	if errors.Is(err, tidegate.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	text, err := readSmall(f)
	return text, errors.Join(err, f.Close())
}

func readSmall(f vfs.File) ([]byte, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > smallFileMax {
		return nil, &tidegate.CorruptError{Path: f.Name(), Offset: -1, What: "longer than such a file may be"}
	}
	text := make([]byte, size)
	n, err := f.ReadAt(text, 0)
	if int64(n) == size {
		err = nil // ReadAt may say io.EOF along with the last byte
	}
	return text[:n], err
}
