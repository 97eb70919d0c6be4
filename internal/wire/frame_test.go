package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestReaderReturnsWholeFrames(t *testing.T) {
	bodies := [][]byte{nil, []byte("a"), bytes.Repeat([]byte("b"), readAhead), bytes.Repeat([]byte("c"), 3*readAhead), []byte("d")}
	var stream []byte
	for i, b := range bodies {
		stream = AppendFrame(stream, Type(i+1), b[:len(b)/2], b[len(b)/2:])
	}
	for name, src := range map[string]io.Reader{
		"whole":       bytes.NewReader(stream),
		"byte a time": iotest.OneByteReader(bytes.NewReader(stream)),
		"half":        iotest.HalfReader(bytes.NewReader(stream)),
		"data+eof":    iotest.DataErrReader(bytes.NewReader(stream)),
	} {
		t.Run(name, func(t *testing.T) {
			r := NewReader(src, 3*readAhead)
			for i, want := range bodies {
				typ, got, err := r.Next()
				if err != nil || typ != Type(i+1) || !bytes.Equal(got, want) {
					t.Fatalf("frame %d: type %d, %d bytes, %v", i, typ, len(got), err)
				}
			}
			if _, _, err := r.Next(); !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("end: %v", err)
			}
		})
	}
}

func TestReaderRefusesBadFrames(t *testing.T) {
	good := AppendFrame(nil, 1, []byte("body"))
	for name, tc := range map[string]struct {
		in   []byte
		want error
	}{
		"type zero":       {AppendFrame(nil, 0), ErrFrame},
		"reserved":        {[]byte{0, 0, 0, 0, 1, 0, 1, 0}, ErrFrame},
		"too large":       {AppendFrame(nil, 1, make([]byte, 65)), ErrTooLarge},
		"header cut":      {good[:5], io.ErrUnexpectedEOF},
		"body cut":        {good[:len(good)-1], io.ErrUnexpectedEOF},
		"body all cut":    {good[:HeaderSize], io.ErrUnexpectedEOF},
		"length 2^32 - 1": {[]byte{255, 255, 255, 255, 1, 0, 0, 0}, ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := NewReader(bytes.NewReader(tc.in), 64).Next(); !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// gateWriter records writes and holds each back until released.
type gateWriter struct {
	entered chan []byte
	release chan error
}

func (g *gateWriter) Write(p []byte) (int, error) {
	g.entered <- bytes.Clone(p)
	if err := <-g.release; err != nil {
		return 0, err
	}
	return len(p), nil
}

func TestWriterCoalescesBehindWriteInFlight(t *testing.T) {
	g := &gateWriter{entered: make(chan []byte), release: make(chan error)}
	w := NewWriter(g, 1<<20)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.Send(1, []byte("first")); err != nil {
			t.Error(err)
		}
	})
	first := <-g.entered
	for range 3 { // returns although the first write hangs
		if err := w.Send(2, []byte("more")); err != nil {
			t.Fatal(err)
		}
	}
	g.release <- nil
	second := <-g.entered
	g.release <- nil
	wg.Wait()
	if diff := cmp.Diff(AppendFrame(nil, 1, []byte("first")), first); diff != "" {
		t.Error(diff)
	}
	var want []byte
	for range 3 {
		want = AppendFrame(want, 2, []byte("more"))
	}
	if diff := cmp.Diff(want, second); diff != "" {
		t.Error(diff)
	}
}

// What is to be the last word goes out behind a write in flight, before Drain returns:
// the connection may be closed then.
func TestWriterDrainWaitsForWriteInFlight(t *testing.T) {
	g := &gateWriter{entered: make(chan []byte), release: make(chan error)}
	w := NewWriter(g, 1<<20)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.Send(1, []byte("first")); err != nil {
			t.Error(err)
		}
	})
	<-g.entered
	if err := w.Put(2, []byte("goodbye")); err != nil {
		t.Fatal(err)
	}
	drained := make(chan error, 1)
	wg.Go(func() { drained <- w.Drain() })
	g.release <- nil
	last := <-g.entered
	select {
	case err := <-drained:
		t.Errorf("drained (%v) while the last write is in flight", err)
	default:
	}
	g.release <- nil
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(AppendFrame(nil, 2, []byte("goodbye")), last); diff != "" {
		t.Error(diff)
	}
	if err := w.Drain(); err != nil {
		t.Errorf("with nothing to write: %v", err)
	}
	boom := errors.New("boom")
	wg.Go(func() {
		if err := w.Send(1, []byte("more")); !errors.Is(err, boom) {
			t.Errorf("send of a writer that failed: %v", err)
		}
	})
	<-g.entered
	wg.Go(func() { drained <- w.Drain() })
	w.Fail(boom)
	if err := <-drained; !errors.Is(err, boom) {
		t.Errorf("drain of a writer that failed: %v", err)
	}
	g.release <- nil
	wg.Wait()
}

func TestWriterFullQueueBlocksUntilFail(t *testing.T) {
	g := &gateWriter{entered: make(chan []byte), release: make(chan error)}
	w := NewWriter(g, 64)
	boom := errors.New("boom")
	var wg sync.WaitGroup
	wg.Go(func() { _ = w.Send(1, make([]byte, 60)) })
	<-g.entered
	if err := w.Send(1, make([]byte, 200)); err != nil { // larger than the limit, alone
		t.Fatal(err)
	}
	blocked := make(chan error, 1)
	wg.Go(func() { blocked <- w.Send(1, make([]byte, 60)) })
	w.Fail(boom)
	if err := <-blocked; !errors.Is(err, boom) {
		t.Errorf("blocked put: %v", err)
	}
	if err := w.Send(1); !errors.Is(err, boom) {
		t.Errorf("later send: %v", err)
	}
	g.release <- nil
	wg.Wait()
}

func TestWriterErrorIsSticky(t *testing.T) {
	g := &gateWriter{entered: make(chan []byte, 1), release: make(chan error, 1)}
	g.release <- net.ErrClosed
	w := NewWriter(g, 64)
	for range 2 {
		if err := w.Send(1); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("got %v", err)
		}
	}
}

func TestFramesAllocateNothing(t *testing.T) {
	body := bytes.Repeat([]byte("x"), 500)
	w := NewWriter(io.Discard, 1<<20)
	stream := bytes.Repeat(AppendFrame(nil, 1, body), 1000)
	src := bytes.NewReader(stream)
	r := NewReader(src, 1<<20)
	_ = w.Send(1, body)
	got := testing.AllocsPerRun(900, func() {
		if err := w.Send(1, body); err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	})
	if got != 0 {
		t.Errorf("%v allocations per frame", got)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(AppendFrame(AppendFrame(nil, 1, []byte("one")), 2, nil))
	f.Add([]byte{255, 255, 255, 255, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := NewReader(iotest.HalfReader(bytes.NewReader(in)), 1<<10)
		var again []byte
		for {
			typ, body, err := r.Next()
			if err != nil {
				break
			}
			again = AppendFrame(again, typ, body)
		}
		if !bytes.HasPrefix(in, again) {
			t.Fatalf("frames read do not encode back to the input's prefix")
		}
	})
}
