package server

// Names within a home.
const (
	dataDir       = "data"
	tablespaceDir = "tablespaces"
	runDir        = "run"
	logDir        = "log"
	restoringDir  = "restoring"
)

// reserved are the settings that are this package's.
func reserved() []string { return nil }
