package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/daemon"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/standby"
	"github.com/tidegate/tidegate/stores/postgres/apply"
)

// warmFile is a service that this node keeps warm by itself, because its store
// knows nothing of Tidegate.
type warmFile struct {
	Service  tidegate.ServiceName `yaml:"service"`
	Stream   tidegate.StreamName  `yaml:"stream"`
	Store    string               `yaml:"store"`
	Endpoint string               `yaml:"endpoint"` // host:port where clients reach it once it is active; may be empty
	Settings config.Section       `yaml:"settings"` // the store's own
}

func (w warmFile) validate() error {
	all := []error{config.Name("service", string(w.Service)), config.Name("stream", string(w.Stream))}
	if w.Endpoint != "" {
		all = append(all, config.Reachable("endpoint", w.Endpoint))
	}
	if w.Store != apply.Kind {
		return errors.Join(append(all, config.Broken("store", "want postgres", w.Store))...)
	}
	return errors.Join(all...)
}

// sections reads what only the store knows of; its mistakes name their own places.
func (w warmFile) sections() error {
	if w.Store != apply.Kind {
		return nil
	}
	_, err := config.ReadSection[apply.Settings](w.Settings)
	return err
}

// validateWarm reports every broken rule of the list.
func validateWarm(list []warmFile, runDir string) error {
	var all []error
	seen := map[string]bool{}
	for i, w := range list {
		at := fmt.Sprintf("warm[%d]", i)
		name := fmt.Sprintf("%s/%s", w.Service, w.Stream)
		if seen[name] {
			all = append(all, config.Broken(at, "want one for each stream", name))
		}
		seen[name] = true
		all = append(all, config.Under(at, w.validate()), w.sections())
	}
	if len(list) > 0 && runDir == noRunDir {
		all = append(all, config.Broken("run_dir", "want a directory for the warm services' sockets", runDir))
	}
	return errors.Join(all...)
}

// warmParts makes a connector for every warm service of the file.
func warmParts(f standbyFile, node *standby.Standby, clk clock.Clock, log *slog.Logger) ([]daemon.Part, error) {
	var parts []daemon.Part
	for _, w := range f.Warm {
		settings, err := config.ReadSection[apply.Settings](w.Settings)
		if err != nil {
			return nil, err
		}
		cfg, err := settings.Config(w.Service, w.Stream, f.RunDir, w.Endpoint)
		if err != nil {
			return nil, err
		}
		c, err := apply.New(apply.Deps{
			FS: vfs.OS(), Clock: clk, Log: log,
			Bases: func() (apply.Bases, error) {
				b, err := node.Bases(w.Service, w.Stream)
				return b, err
			},
			Left: func(t apply.Tail) error {
				return node.Leave(w.Service, w.Stream, standby.Tail{
					First: t.First, Next: t.Next, Records: int64(t.Commits), Bytes: int64(t.Next - t.First),
					OldestTime: t.Oldest, NewestTime: t.Newest, Path: t.Path,
				})
			},
		}, cfg)
		if err != nil {
			return nil, err
		}
		parts = append(parts, daemon.Part{Name: fmt.Sprintf("warm %s/%s", w.Service, w.Stream), Run: c.Run, Ready: c.Ready()}, daemon.Part{
			Name: fmt.Sprintf("bases of %s/%s", w.Service, w.Stream),
			Run:  func(ctx context.Context) error { return node.RefreshBases(ctx, w.Service, w.Stream, c) },
		})
	}
	return parts, nil
}
