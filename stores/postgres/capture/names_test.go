package capture

import (
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores/postgres/names"
)

// What cannot be set, or is set and not in force, arms nothing and is said.
func TestNamesThatAreNotInForceArmNothing(t *testing.T) {
	for name, c := range map[string]struct{ program, says string }{
		"a driver that fails":        {"/bin/false", "set synchronous_standby_names by /bin/false: exit status 1"},
		"a driver that nobody obeys": {"/bin/true", `the server still shows ""`},
		"a driver that is not there": {"/nonexistent/driver", "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, pgtest.Config{}, func(set *Settings) {
				set.Names = names.Config{Driver: names.Exec, Exec: names.ExecConfig{Command: []string{c.program}}}
			})
			s.durable(tidegate.ModeOpen, tidegate.Bounds{})
			s.grant(s.caughtUp().Head, tidegate.ModeSync, tidegate.Bounds{})
			s.agent.until("the finding", func(a *fakeAgent) bool {
				return a.finding != nil && strings.Contains(a.finding.Error(), c.says) && a.progress.Grant == 0
			})
			s.name() // somebody does it by hand
			s.agent.until("in force", func(a *fakeAgent) bool { return a.progress.Grant == a.number && a.finding == nil })
		})
	}
}

func TestSettingsOfNames(t *testing.T) {
	err := config.Refuse("test", Settings{
		Conn: "host=/run", Slot: "tidegate", SetNames: true, Names: names.Config{Driver: names.Patroni},
	}.SetDefaults().Validate())
	for _, want := range []string{"\n  names.patroni.url: ", "\n  set_names: want set_names or names, not both"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in: %v", want, err)
		}
	}
	if got := (Settings{SetNames: true}).driver().Driver; got != names.AlterSystem {
		t.Errorf("set_names is driver %q", got)
	}
}
