package s3test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// Fault is what a [Proxy] does to a request.
type Fault string

// The faults.
const (
	Refuse     Fault = "refuse"      // 503 SlowDown; the server sees nothing
	Hang       Fault = "hang"        // no answer; the server sees nothing
	CutRequest Fault = "cut request" // the connection ends within the request's body, on both sides
	CutAnswer  Fault = "cut answer"  // the server does what it is asked, and its answer is lost
	CutBody    Fault = "cut body"    // the connection ends within the answer's body
	StallBody  Fault = "stall body"  // nothing comes after half of the answer's body
	Flip       Fault = "flip"        // a bit of the request's body changes on the way
)

// Proxy stands in front of a server and damages some requests.
type Proxy struct {
	URL string

	to     string
	client *http.Transport
	end    chan struct{} // closed when the test ends

	mu    sync.Mutex
	fault Fault
	left  int    // of the requests that the fault befalls
	hit   int    // that it has befallen
	half  func() // called when half of a request's body has passed; nil: not
}

// NewProxy stands in front of a server until the test ends.
func NewProxy(t *testing.T, s *Server) *Proxy {
	t.Helper()
	p := &Proxy{to: s.addr, client: &http.Transport{DisableCompression: true}, end: make(chan struct{})}
	front := httptest.NewServer(p)
	p.URL = front.URL
	t.Cleanup(func() {
		close(p.end)
		front.CloseClientConnections()
		front.Close()
		p.client.CloseIdleConnections()
	})
	return p
}

// Do lets a fault befall the next requests that it can befall, so many of them.
func (p *Proxy) Do(f Fault, requests int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault, p.left, p.hit = f, requests, 0
}

// AtHalf calls f once, when half of the body of the next request that has a large one
// has passed.
func (p *Proxy) AtHalf(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.half = f
}

// Hit returns how many requests the fault has befallen since Do.
func (p *Proxy) Hit() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hit
}

// largeBody is from when on a body can be cut in the middle of what it says.
const largeBody = 1000

// next takes the fault of a request.
func (p *Proxy) next(r *http.Request) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	fits := true
	switch p.fault {
	case CutRequest, Flip:
		fits = r.ContentLength > largeBody
	case CutAnswer:
		fits = r.Method == http.MethodPut || r.Method == http.MethodPost
	case CutBody, StallBody:
		fits = r.Method == http.MethodGet
	}
	if p.left == 0 || !fits {
		return ""
	}
	p.left--
	p.hit++
	return p.fault
}

// ServeHTTP implements [http.Handler].
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fault := p.next(r)
	switch fault {
	case Refuse:
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>`) // to a client that may be gone
		return
	case Hang:
		p.hang(r)
		panic(http.ErrAbortHandler)
	}
	answer, err := p.client.RoundTrip(p.onward(r, fault))
	if err != nil || fault == CutAnswer || fault == CutRequest {
		if err == nil {
			_, _ = io.Copy(io.Discard, answer.Body) // what it has done is done
			_ = answer.Body.Close()                 // read to its end, or broken
		}
		panic(http.ErrAbortHandler) // the client sees its connection end
	}
	defer func() { _ = answer.Body.Close() }()
	for name, values := range answer.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.StatusCode)
	if fault != CutBody && fault != StallBody {
		_, _ = io.Copy(w, answer.Body) // to a client that may be gone
		return
	}
	_, _ = io.CopyN(w, answer.Body, answer.ContentLength/2) // to a client that may be gone
	_ = http.NewResponseController(w).Flush()               // so too
	if fault == StallBody {
		p.hang(r)
	}
	panic(http.ErrAbortHandler)
}

// hang waits until the client is gone. While it still sends its body, that shows only
// by reading it.
func (p *Proxy) hang(r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // its end is what is waited for, however it comes
	select {
	case <-r.Context().Done():
	case <-p.end:
	}
}

// onward is the request to the server: signed for the proxy's address, so it keeps
// that as its host.
func (p *Proxy) onward(r *http.Request, fault Fault) *http.Request {
	out := r.Clone(r.Context())
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host = "http", p.to
	if r.ContentLength == 0 {
		out.Body = http.NoBody
	}
	if r.ContentLength > largeBody {
		p.mu.Lock()
		half := p.half
		p.half = nil
		p.mu.Unlock()
		out.Body = &passing{ReadCloser: r.Body, left: r.ContentLength / 2, fault: fault, half: half}
	}
	return out
}

// passing is a large body on its way.
type passing struct {
	io.ReadCloser

	left  int64 // until its half
	fault Fault
	half  func()
}

func (b *passing) Read(p []byte) (int, error) {
	if b.left > 0 {
		n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
		b.left -= int64(n)
		if b.left == 0 && b.fault == Flip {
			p[n-1] ^= 1
		}
		return n, err
	}
	if b.half != nil {
		b.half()
		b.half = nil
	}
	if b.fault == CutRequest {
		return 0, io.ErrUnexpectedEOF
	}
	return b.ReadCloser.Read(p)
}
