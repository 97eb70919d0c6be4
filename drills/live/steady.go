package live

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/probe"
)

// place is the live service, through the addresses of the drill's file.
type place struct {
	canary    string
	addresses map[string]bool
	drill     string // its report's id, for commands
}

var _ probe.Place = place{}

// Fill implements [probe.Place].
func (p place) Fill(text string) string {
	return probe.Fill(text, map[string]string{"{canary}": p.canary})
}

// Given implements [probe.Place].
func (p place) Given(addr string) bool { return p.addresses[addr] }

// Environment implements [probe.Place]: commands are the operator's own, and need what
// theirs need.
func (p place) Environment(more map[string]string) []string {
	env := append(os.Environ(), "TIDEGATE_DRILL="+p.drill)
	for k, v := range more {
		env = append(env, k+"="+v)
	}
	return env
}

// Home implements [probe.Place].
func (p place) Home() string { return "" }

// newNumber draws a number that no canary has had.
func newNumber() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// steady writes canaries until ctx ends: each of them every so often, also while others
// are not answered, because the next one shows when the service is back.
func (r *run) steady(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for i := range r.d.cfg.Canaries {
		k := &r.d.cfg.Canaries[i]
		if r.drilled(k.Service) {
			all.Go(func() { r.writeEvery(ctx, k) })
		}
	}
}

func (r *run) writeEvery(ctx context.Context, k *Canary) {
	tick := time.NewTicker(r.d.cfg.Every)
	defer tick.Stop()
	var writing sync.WaitGroup
	defer writing.Wait()
	slots := make(chan struct{}, 2+int(k.Write.Timeout/r.d.cfg.Every))
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case slots <- struct{}{}:
		default:
			continue
		}
		writing.Go(func() {
			defer func() { <-slots }()
			r.write(ctx, k)
		})
	}
}

// write writes one canary. What the drill's own end cuts off says nothing: whether it was
// accepted nobody has told.
func (r *run) write(ctx context.Context, k *Canary) {
	a := Attempt{Canary: k.Name, Service: k.Service, Number: newNumber(), Began: r.d.clk.Boot()}
	asker := r.asker(a.Number)
	defer asker.Close()
	_, err := asker.Ask(ctx, &k.Write)
	a.Ended = r.d.clk.Boot()
	if err != nil {
		if ctx.Err() != nil {
			return
		}
		a.Failed = evidence.Sentence(err)
	}
	r.tell(func() { r.tally.Take(a) })
}

func (r *run) asker(number string) *probe.Asker {
	return probe.New(r.d.clk, place{number, r.addresses, r.id.String()}, nil)
}

const (
	lookupsAtOnce = 8
	lookupPasses  = 3 // for what was not there, or had no answer
)

// lookUp looks every acknowledged canary up. One that is not there is asked for again
// before it counts as missing: a service that has just moved may be on its way.
func (r *run) lookUp(ctx context.Context) error {
	found := map[string]Found{}
	left := r.told(func() any { return r.tally.Acknowledged() }).([]Attempt)
	for pass := range lookupPasses {
		if pass > 0 {
			if err := r.sleep(ctx, r.d.pace.lookup); err != nil {
				return err
			}
		}
		left = r.lookUpOnce(ctx, left, found)
		if len(left) == 0 {
			break
		}
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx) // nothing is known of those that were asked last
	}
	r.tell(func() {
		for number, f := range found {
			r.tally.Look(number, f)
		}
	})
	return nil
}

// lookUpOnce asks for each, and returns those that are not there.
func (r *run) lookUpOnce(ctx context.Context, all []Attempt, found map[string]Found) (left []Attempt) {
	var mu sync.Mutex
	var asking sync.WaitGroup
	slots := make(chan struct{}, lookupsAtOnce)
	for _, a := range all {
		slots <- struct{}{}
		asking.Go(func() {
			defer func() { <-slots }()
			f := r.find(ctx, &a)
			mu.Lock()
			defer mu.Unlock()
			if found[a.Number] = f; f != There {
				left = append(left, a)
			}
		})
	}
	asking.Wait()
	return left
}

// find asks for one canary. An answer that refuses to answer says nothing of it.
func (r *run) find(ctx context.Context, a *Attempt) Found {
	var read *probe.Ask
	for i := range r.d.cfg.Canaries {
		if k := &r.d.cfg.Canaries[i]; k.Name == a.Canary {
			read = &k.Read
		}
	}
	asker := r.asker(a.Number)
	defer asker.Close()
	_, err := asker.Ask(ctx, read)
	wrong, answered := errors.AsType[probe.Wrong](err)
	switch {
	case err == nil:
		return There
	case answered && tells(read, wrong.Got):
		return Missing
	}
	return Unknown
}

// tells reports whether an answer that is not the wanted one says that the canary is not
// there: by HTTP the wanted status without what it must contain, 404 or 410, of a command
// the wanted end. Anything else may be said for other reasons, and is no answer.
func tells(read *probe.Ask, got string) bool {
	switch {
	case read.HTTP != nil:
		status, _, _ := strings.Cut(got, " ")
		return slices.Contains([]string{strconv.Itoa(read.HTTP.Status), "404", "410"}, status)
	case read.Command != nil:
		return strings.HasPrefix(got, fmt.Sprintf("exit %d:", read.Command.Exit))
	}
	return true
}

// drilled reports whether a service is part of this drill.
func (r *run) drilled(s tidegate.ServiceName) bool {
	for _, one := range r.services {
		if one == s {
			return true
		}
	}
	return false
}
