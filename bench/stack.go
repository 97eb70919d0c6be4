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

// startPlant is startStack with a plant's own Tune, and a stream.
func startPlant(ctx context.Context, plant lab.Plant, of stream, say func(string)) (*stack, error) {
	plant.Primaries, plant.Mode, plant.NoService, plant.Streams = 1, tidegate.ModeSync, true, []string{of.name}
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
	first, err := of.first()
	if err == nil {
		err = s.trip(up, first)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("first record: %w", err), s.close())
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

func (s *stack) open(ctx context.Context) error {
	j, err := journal.Open(s.lab.Journal(primary, s.stream.name), journal.Config{
		Service: lab.Service, Stream: tidegate.StreamName(s.stream.name), ID: s.stream.id,
		AgentSocket: local.SocketPath(s.lab.RunDir(primary), local.DaemonAgent, lab.Service, tidegate.StreamName(s.stream.name)),
		Endpoint:    strings.TrimPrefix(s.lab.HTTP(primary), "http://"),
	})
	if err != nil {
		return err
	}
	s.j = j
	ctx, cancel := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error { return j.Run(ctx, s.service) })
	s.stop = func() error {
		cancel()
		return errors.Join(g.Wait(), j.Close())
	}
	return j.Activate()
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
