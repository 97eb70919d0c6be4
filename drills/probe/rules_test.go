package probe

import (
	"regexp"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/internal/config"
)

var clones = Rules{
	URL:    Form{regexp.MustCompile(`^http://\{address:[a-z]+\}(/|$)`), "want http://{address:NAME}/..."},
	Where:  Form{regexp.MustCompile(`\{address:[a-z]+\}|\{run\}`), "want {address:NAME} or {run} as the host"},
	Own:    true,
	Places: []string{"{data}", "{run}", "{canary}", "{address:NAME}"},
}

// TestRules: each mistake is named with its place, and what is right is taken.
func TestRules(t *testing.T) {
	for name, tc := range map[string]struct {
		ask  Ask
		want string // empty: it is right
	}{
		"http":            {Ask{HTTP: &HTTP{URL: "http://{address:http}/x", Body: `{"client":"{canary}"}`}}, ""},
		"command":         {Ask{Command: &Command{Run: []string{"/bin/ls", "{data}"}, Exit: 1}}, ""},
		"sql by URL":      {Ask{SQL: &SQL{Where: "postgres://dora@{address:sql}/bank", Query: "SELECT 1", Want: "1"}}, ""},
		"sql by keywords": {Ask{SQL: &SQL{Where: "host={run} user=dora dbname=bank", Query: "SELECT 1"}}, ""},
		"none":            {Ask{}, "want http, command or sql, one of them"},
		"two":             {Ask{HTTP: &HTTP{URL: "http://{address:http}"}, SQL: &SQL{Where: "host={run}", Query: "x"}}, "want http, command or sql, one of them"},
		"elsewhere":       {Ask{HTTP: &HTTP{URL: "http://live.example/"}}, "http.url: want http://{address:NAME}/..."},
		"userinfo":        {Ask{HTTP: &HTTP{URL: "http://dora:secret@{address:http}/"}}, "http.url: want a URL without a user or password"},
		"no such place":   {Ask{Command: &Command{Run: []string{"/bin/ls", "{home}"}}}, "command.run[1]: want {data}, {run}, {canary} or {address:NAME} in braces"},
		"no such address": {Ask{Command: &Command{Run: []string{"/bin/ls", "{address:}"}}}, "command.run[1]"},
		"relative":        {Ask{Command: &Command{Run: []string{"ls"}}}, "command.run[0]"},
		"sql elsewhere":   {Ask{SQL: &SQL{Where: "postgres://live.example/bank", Query: "SELECT 1"}}, "sql.where: want {address:NAME} or {run}"},
		"a user's place":  {Ask{SQL: &SQL{Where: "host=db.prod.example user={run}", Query: "SELECT 1"}}, "sql.where: want {address:NAME} or {run}"},
		"a second host":   {Ask{SQL: &SQL{Where: "postgres://{address:sql},db.prod.example/bank", Query: "SELECT 1"}}, "sql.where: want {address:NAME} or {run}"},
		"a service's":     {Ask{SQL: &SQL{Where: "host={run} service=prod", Query: "SELECT 1"}}, `sql.where: want a connection string (`},
		"no query":        {Ask{SQL: &SQL{Where: "host={run}", Query: " "}}, "sql.query: want one statement"},
		"no where":        {Ask{SQL: &SQL{Query: "SELECT 1"}}, "sql.where: want a connection string"},
		"no connection":   {Ask{SQL: &SQL{Where: "host={run} port=x password=secret", Query: "SELECT 1"}}, "sql.where: want no password"},
		"a bad port":      {Ask{SQL: &SQL{Where: "host={run} port=x", Query: "SELECT 1"}}, "sql.where: want a connection string (cannot parse"},
		"password":        {Ask{SQL: &SQL{Where: "postgres://dora:secret@{address:sql}/bank", Query: "SELECT 1"}}, "sql.where: want no password"},
		"place in a want": {Ask{SQL: &SQL{Where: "host={run}", Query: "SELECT 1", Want: "{it}"}}, "sql.want: want {data}"},
	} {
		a := tc.ask.WithDefaults()
		err := clones.Ask(&a)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) || err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want %s", name, err, tc.want)
		}
	}
}

// TestCanaryIsItsOwn: what is read back in SQL is the drill's too.
func TestCanaryIsItsOwn(t *testing.T) {
	where := "host={run}"
	for name, tc := range map[string]struct {
		write, read SQL
		want        string
	}{
		"right":      {SQL{Query: "INSERT INTO c VALUES ('{canary}')"}, SQL{Query: "SELECT max(c) FROM c", Want: "{canary}"}, ""},
		"asked for":  {SQL{Query: "INSERT INTO c VALUES ('{canary}')"}, SQL{Query: "SELECT 1 FROM c WHERE c = '{canary}'", Want: "1"}, ""},
		"nobody's":   {SQL{Query: "INSERT INTO c VALUES (1)"}, SQL{Query: "SELECT max(c) FROM c", Want: "{canary}"}, "write: want {canary}"},
		"any answer": {SQL{Query: "INSERT INTO c VALUES ('{canary}')"}, SQL{Query: "SELECT count(*) FROM c WHERE c = '{canary}'"}, "read: want contains"},
		"another's":  {SQL{Query: "INSERT INTO c VALUES ('{canary}')"}, SQL{Query: "SELECT count(*) > 0 FROM c", Want: "t"}, "read: want {canary}"},
	} {
		tc.write.Where, tc.read.Where = where, where
		c := Canary{Name: name, Write: Ask{SQL: &tc.write}, Read: Ask{SQL: &tc.read}}.WithDefaults()
		if err := clones.Canary(&c); tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %s", name, err, tc.want)
		}
	}
}

type file struct {
	Checks []Check `yaml:"checks"`
}

func (f file) SetDefaults() file {
	for i, c := range f.Checks {
		f.Checks[i] = c.WithDefaults()
	}
	return f
}

func (f file) Validate() error { return clones.Check(&f.Checks[0]) }

// TestOutOfAFile: a question in SQL as operators write it.
func TestOutOfAFile(t *testing.T) {
	f, err := config.Parse[file]("drill.yaml", []byte(`
checks:
  - name: rows
    sql: {where: "host={run} dbname=bank", query: SELECT count(*) FROM accounts, want: "7"}
`))
	if err != nil || f.Checks[0].Kind() != "sql" || f.Checks[0].Timeout != timeoutDefault || f.Checks[0].Wanted() != `SELECT count(*) FROM accounts: "7"` {
		t.Errorf("%+v, %v", f.Checks, err)
	}
}
