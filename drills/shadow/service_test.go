package shadow

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/procgroup"
	"github.com/tidegate/tidegate/journal"
)

// TestMain is also the service in the sandbox: a process of its own, of this binary.
func TestMain(m *testing.M) {
	if len(os.Args) == 6 && os.Args[1] == "service" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err := serve(ctx, os.Args[2], os.Args[3], os.Args[4], os.Args[5])
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, "service:", err)
			os.Exit(1)
		}
		return
	}
	if err := os.Setenv("SECRET", "of the drill's"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// The ways in which the service misbehaves.
const (
	well     = "well"
	dies     = "dies"     // before it connects
	paced    = "paced"    // it takes its time over some of the last events
	slow     = "slow"     // it takes three times as long over them
	spoils   = "spoils"   // it carries one event out wrongly
	poisoned = "poisoned" // it cannot carry out one of the last events
	refuses  = "refuses"  // it ends when it is to be promoted
	deaf     = "deaf"     // it takes no writes
	children = "children" // it leaves a process behind
)

// pace is how long each tenth of the last events takes at the least.
var pace = map[string]time.Duration{paced: 30 * time.Millisecond, slow: 90 * time.Millisecond}

// chain is a service whose state is the chain of its events.
type chain struct {
	way string

	mu       sync.Mutex
	at       tidegate.Position
	state    tidegate.Digest
	seen     int
	promoted bool
	last     []byte // event
	out      outbox
}

func after(state tidegate.Digest, event []byte) tidegate.Digest {
	sum := sha256.Sum256(append(state[:], event...))
	return tidegate.Digest(sum[:16])
}

func (s *chain) State() (tidegate.Position, tidegate.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at, s.state
}

func (s *chain) Apply(r journal.Record) error {
	if took := pace[s.way]; took > 0 && r.Number > events/2 && r.Number%10 == 0 {
		<-time.After(took) // it is slow: that is what is tested
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen++
	if s.way == poisoned && s.seen == events-20 {
		return errors.New("cannot carry it out")
	}
	s.at, s.state, s.last = r.Next, after(s.state, r.Payload), bytes.Clone(r.Payload)
	s.out.events = append(s.out.events, event{r.First, s.last})
	if s.way == spoils && s.seen == 7 {
		s.state[0]++
	}
	return nil
}

func (s *chain) Promote(_ context.Context, epoch tidegate.Epoch, _ tidegate.Position) error {
	if s.way == refuses {
		return errors.New("not today")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.promoted, s.out.epoch = true, epoch
	return nil
}

func (*chain) Fenced(tidegate.Epoch) {}

// serve is the whole service.
func serve(ctx context.Context, data, run, addr, way string) error {
	if way == dies {
		return errors.New("no such table")
	}
	for _, v := range []string{"SECRET", "AWS_ACCESS_KEY_ID"} {
		if os.Getenv(v) != "" {
			return errors.New("it has a credential: " + v)
		}
	}
	if way == children {
		if _, err := os.StartProcess("/bin/sleep", []string{"sleep", "600"}, &os.ProcAttr{Sys: procgroup.Apart()}); err != nil {
			return err
		}
	}
	j, err := journal.Open(filepath.Join(data, "journal"), journal.Config{
		Service: "bank", Stream: "main", ProgressEvery: 5 * time.Millisecond,
		StandbySocket: local.SocketPath(run, local.DaemonStandby, "bank", "main"), AgentSocket: local.SocketPath(run, local.DaemonAgent, "bank", "main"),
	})
	if err != nil {
		return err
	}
	s := &chain{way: way}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /events", func(w http.ResponseWriter, r *http.Request) { s.take(w, r, j) })
	mux.HandleFunc("GET /count", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		_, _ = io.WriteString(w, strconv.Itoa(s.seen)+" events") // the client sees it
	})
	mux.HandleFunc("GET /events/{event}", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if string(s.last) == r.PathValue("event") {
			_, _ = io.WriteString(w, "here") // the client sees it
		}
	})
	s.serveOutputs(mux, j)
	mux.HandleFunc("GET /hang", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	at, err := net.Listen("tcp", addr) // before it is fed: what it has is asked for then
	if err != nil {
		return errors.Join(err, j.Close())
	}
	var g sync.WaitGroup
	g.Go(func() { _ = srv.Serve(at) }) // a client sees it
	err = j.Run(ctx, s)
	_ = srv.Close() // the process ends
	g.Wait()
	return errors.Join(err, j.Close())
}

// take takes one event, as an active service does.
func (s *chain) take(w http.ResponseWriter, r *http.Request, j *journal.Journal) {
	s.mu.Lock()
	active := s.promoted && s.way != deaf
	s.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil || !active {
		http.Error(w, "not active", http.StatusServiceUnavailable)
		return
	}
	at, err := j.Append(r.Context(), body, time.Now())
	if err == nil {
		err = s.Apply(journal.Record{Range: at, Kind: journal.KindData, Payload: body})
	}
	if err == nil {
		err = j.Await(r.Context(), at.Next)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	}
}
