package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/journal"
)

const (
	streamName = "bench"
	primary    = "p1" // the lab's one machine at the primary site
)

// stack is a running crossing: the lab's processes, and this process's journal.
type stack struct {
	lab     *lab.Lab
	j       *journal.Journal
	n, w    int
	service *service
	stop    func() error
	noise   []byte
	stream  stream
}

// stream is what the bench writes.
type stream struct {
	name  string
	id    tidegate.ID // of its journal; zero: a new one
	first func() ([]byte, error)
}

// benched is a stream of bytes that mean nothing.
var benched = stream{name: streamName, first: func() ([]byte, error) { return make([]byte, 100), nil }}

// service is this process as far as the library asks for it.
type service struct{ applied atomic.Uint64 }

func (s *service) State() (tidegate.Position, tidegate.Digest) {
	return tidegate.Position(s.applied.Load()), tidegate.Digest{}
}
func (s *service) Apply(journal.Record) error { return errors.New("nothing is followed here") }
func (s *service) Promote(context.Context, tidegate.Epoch, tidegate.Position) error {
	return errors.New("nothing is promoted here")
}
func (s *service) Fenced(tidegate.Epoch) {}

// startStack brings n standby nodes up and returns once a first record is
// durable on a majority of them.
func startStack(ctx context.Context, dir, bin string, n int, say func(string)) (*stack, error) {
	return startPlant(ctx, lab.Plant{Dir: dir, Bin: bin, Standbys: n}, benched, say)
}

// startPlant is startStack with what a plant says besides, and a stream; idle ones have
// their first record and no more.
func startPlant(ctx context.Context, plant lab.Plant, of stream, say func(string), idle ...stream) (*stack, error) {
	plant.Primaries, plant.NoService, plant.Streams = 1, true, []string{of.name} // in mode sync, unless it says otherwise
	for _, x := range idle {
		plant.Streams = append(plant.Streams, x.name)
	}
	n := plant.Standbys
	l, err := lab.New(plant)
	if err != nil {
		return nil, err
	}
	s := &stack{lab: l, n: n, w: n/2 + 1, service: new(service), noise: noise(), stream: of}
	s.stop = func() error { return nil }
	up, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := errors.Join(l.Up(up, say), s.open(ctx)); err != nil {
		return nil, errors.Join(err, s.close())
	}
	// A service is active once all of its streams are there.
	var others []*stack
	for _, x := range idle {
		other := &stack{lab: l, service: new(service), stream: x}
		err := other.open(ctx)
		stop := s.stop
		s.stop = func() error { return errors.Join(other.stop(), stop()) }
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		others = append(others, other)
	}
	for _, x := range append([]*stack{s}, others...) {
		first, err := x.stream.first()
		if err == nil {
			err = x.trip(up, first)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("first record of %s: %w", x.stream.name, err), s.close())
		}
	}
	return s, nil
}

// noise is what records are cut from: bytes that no codec shrinks, so that the
// disks and the connection carry what was appended.
func noise() []byte {
	b := make([]byte, 4<<20)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b) // never fails
	return b
}

// record returns the i-th record of a size; it is only read.
func (s *stack) record(i, size int) []byte {
	at := i * 61 % (len(s.noise) - size)
	return s.noise[at : at+size]
}

func (s *stack) open(ctx context.Context) (err error) {
	s.j, s.stop, err = openJournal(ctx, s.lab, s.stream, s.service)
	return err
}

// openJournal opens a stream's journal at the primary site, and runs it until stop, which
// is never nil.
func openJournal(ctx context.Context, l *lab.Lab, of stream, svc *service) (j *journal.Journal, stop func() error, err error) {
	stop = func() error { return nil }
	j, err = journal.Open(l.Journal(primary, of.name), journal.Config{
		Service: lab.Service, Stream: tidegate.StreamName(of.name), ID: of.id,
		AgentSocket: local.SocketPath(l.RunDir(primary), local.DaemonAgent, lab.Service, tidegate.StreamName(of.name)),
		Endpoint:    strings.TrimPrefix(l.HTTP(primary), "http://"),
	})
	if err != nil {
		return nil, stop, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error { return j.Run(ctx, svc) })
	stop = func() error {
		cancel()
		return errors.Join(g.Wait(), j.Close())
	}
	return j, stop, j.Activate()
}

func (s *stack) close() error {
	err := s.stop()
	s.lab.Close()
	return err
}

// trip appends one record and returns when it may be released: durable here and
// on W standby nodes.
func (s *stack) trip(ctx context.Context, record []byte) error {
	r, err := s.j.Append(ctx, record, time.Now())
	if err != nil {
		return err
	}
	return s.await(ctx, r.Next)
}

func (s *stack) await(ctx context.Context, p tidegate.Position) error {
	if err := s.j.Await(ctx, p); err != nil {
		return err
	}
	s.service.applied.Store(uint64(p))
	return nil
}
