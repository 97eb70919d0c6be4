package server

import (
	"context"
	"fmt"
	"strings"
)

// Release asks the programs of BinDir for their version: "15.18", "18beta1".
func (s *Server) Release(ctx context.Context) (string, error) {
	cmd := s.command(ctx, "postgres", "--version")
	cmd.Dir = "/" // the home may not be made yet
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", s.tool("postgres"), err)
	}
	// "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
	_, version, found := strings.Cut(string(out), "(PostgreSQL) ")
	if version, _, _ = strings.Cut(strings.TrimSpace(version), " "); !found || version == "" {
		return "", fmt.Errorf("ask %s for its version: it says %q", s.tool("postgres"), out)
	}
	return version, nil
}
