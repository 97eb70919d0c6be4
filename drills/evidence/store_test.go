package evidence_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/internal/vfs"
)

func newReport(t *testing.T, service tidegate.ServiceName) evidence.Report {
	t.Helper()
	r := bare()
	r.Service, r.Number = service, 0
	var err error
	if r.ID, err = evidence.NewID(); err != nil {
		t.Fatal(err)
	}
	return r
}

func files(t *testing.T, s *evidence.Store, service tidegate.ServiceName, last int) []evidence.File {
	t.Helper()
	out, err := s.Files(t.Context(), service, last)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestStoreKeepsAChainOfEachService(t *testing.T) {
	key := evidence.KeyFromSeed(1)
	b := dir.New(vfs.OS(), t.TempDir())
	s := evidence.NewStore(b)
	var last evidence.Sealed
	for _, service := range []tidegate.ServiceName{"bank", "shop", "bank", "bank"} {
		var err error
		if last, err = s.Append(t.Context(), key, newReport(t, service)); err != nil {
			t.Fatal(err)
		}
	}
	again, err := s.Append(t.Context(), key, last.Report)
	if err != nil || again.Hash != last.Hash || again.Name != "drills/bank/0000000003.dsse.json" {
		t.Errorf("the same report again: %+v, %v", again.Name, err)
	}
	for _, name := range []string{"drills/bank/0000000004.txt", "drills/notes", "drills/bank/4.dsse.json"} {
		if _, err := b.Put(t.Context(), name, strings.NewReader("x"), bucket.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	p := evidence.Verify(files(t, s, "", 0), trusted, evidence.VerifyOptions{Whole: true, Heads: []evidence.Hash{last.Hash}})
	if p.Err() != nil || len(p.Chains) != 2 || p.Chains[0].Last != 3 || p.Chains[1].Last != 1 {
		t.Errorf("%v, %+v", p.Err(), p.Chains)
	}
	if newest := files(t, s, "bank", 2); len(newest) != 2 || newest[1].Name != last.Name {
		t.Errorf("%d files", len(newest))
	}
	if newest := files(t, s, "", 2); len(newest) != 3 || newest[0].Name != "drills/bank/0000000002.dsse.json" || newest[2].Name != "drills/shop/0000000001.dsse.json" {
		t.Errorf("the newest two of each service: %d files", len(newest))
	}
	if _, err := s.Read(t.Context(), "drills/bank/0000000009.dsse.json"); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("one that is not there: %v", err)
	}
	text, _, err := bucket.ReadAll(t.Context(), b, archive.FormatName, 1000)
	if err != nil || archive.CheckFormat(text) != nil {
		t.Errorf("the bucket is no archive: %v", err)
	}
}

func TestStoreKeepsOneClustersChain(t *testing.T) {
	s := evidence.NewStore(dir.New(vfs.OS(), t.TempDir()))
	r := newReport(t, "bank")
	if _, err := s.Append(t.Context(), evidence.KeyFromSeed(1), r); err != nil {
		t.Fatal(err)
	}
	r = newReport(t, "bank")
	r.Cluster = "other"
	if _, err := s.Append(t.Context(), evidence.KeyFromSeed(1), r); tidegate.ClassOf(err) != tidegate.Refused || tidegate.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
}

func TestStoreDoesNotGoOnBehindDamage(t *testing.T) {
	b := dir.New(vfs.OS(), t.TempDir())
	if _, err := b.Put(t.Context(), "drills/bank/0000000007.dsse.json", strings.NewReader("{}"), bucket.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := evidence.NewStore(b).Append(t.Context(), evidence.KeyFromSeed(1), newReport(t, "bank"))
	if tidegate.ClassOf(err) != tidegate.Corrupt || !strings.Contains(err.Error(), "0000000007") {
		t.Errorf("%v", err)
	}
}

// TestStoreDoesNotFollowAnotherService: behind a report that lies in the service's place
// its own would be in no chain.
func TestStoreDoesNotFollowAnotherService(t *testing.T) {
	b := dir.New(vfs.OS(), t.TempDir())
	s := evidence.NewStore(b)
	bank := chain(t, evidence.KeyFromSeed(1), "bank", 2)
	for name, data := range map[string][]byte{"drills/shop/0000000001.dsse.json": bank[0].Data, "drills/bank/0000000007.dsse.json": bank[1].Data} {
		if _, err := b.Put(t.Context(), name, bytes.NewReader(data), bucket.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for service, want := range map[tidegate.ServiceName]string{"shop": "reports of shop belong", "bank": "report 7 belongs"} {
		_, err := s.Append(t.Context(), evidence.KeyFromSeed(1), newReport(t, service))
		if tidegate.ClassOf(err) != tidegate.Corrupt || !errors.Is(err, evidence.ErrReordered) || !strings.Contains(err.Error(), want) || tidegate.HintOf(err) == "" {
			t.Errorf("%s: %v", service, err)
		}
	}
	if n := len(files(t, s, "", 0)); n != 2 {
		t.Errorf("%d reports: one was added", n)
	}
}

// TestStoreOfManyWriters: drills that end at once leave one chain, and every report.
func TestStoreOfManyWriters(t *testing.T) {
	const writers, each = 4, 3
	b := dir.New(vfs.OS(), t.TempDir())
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			s := evidence.NewStore(b)
			for range each {
				if _, err := s.Append(t.Context(), evidence.KeyFromSeed(1), newReport(t, "bank")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	p := evidence.Verify(files(t, evidence.NewStore(b), "bank", 0), trusted, evidence.VerifyOptions{Whole: true})
	if p.Err() != nil || p.Chains[0].Last != writers*each {
		t.Errorf("%v, %d reports", p.Err(), len(p.Chains[0].Reports))
	}
}

// lossy is a bucket whose puts of reports do what they do, and then what it says.
type lossy struct {
	bucket.Bucket
	after func(name string) error
}

func (l *lossy) Put(ctx context.Context, name string, body bucket.Body, o bucket.PutOptions) (bucket.Object, error) {
	obj, err := l.Bucket.Put(ctx, name, body, o)
	if err == nil && strings.HasPrefix(name, archive.DrillsPrefix) {
		err = l.after(name)
	}
	return obj, err
}

// TestStoreWhenAnAnswerIsLost: the put was done, and whoever asked does not know.
func TestStoreWhenAnAnswerIsLost(t *testing.T) {
	inner := dir.New(vfs.OS(), t.TempDir())
	lost := errors.New("the connection broke")
	for name, after := range map[string]error{"and made again": bucket.Conflict("drills/bank", "there already"), "and told": lost} {
		r := newReport(t, "bank")
		s := evidence.NewStore(&lossy{inner, func(string) error { return after }})
		first, err := s.Append(t.Context(), evidence.KeyFromSeed(1), r)
		if errors.Is(after, lost) != (err != nil) {
			t.Errorf("%s: %v", name, err)
		}
		second, err := evidence.NewStore(inner).Append(t.Context(), evidence.KeyFromSeed(1), r)
		if err != nil || !errors.Is(after, lost) && first.Hash != second.Hash {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(files(t, evidence.NewStore(inner), "bank", 0)); n != 2 {
		t.Errorf("%d reports, want each once", n)
	}
}

// TestStoreWhenAnAnswerIsLostAndAnotherFollows: when the put is made again the report is
// there, and is the newest no more.
func TestStoreWhenAnAnswerIsLostAndAnotherFollows(t *testing.T) {
	inner := dir.New(vfs.OS(), t.TempDir())
	s := evidence.NewStore(&lossy{inner, func(name string) error {
		if _, err := evidence.NewStore(inner).Append(t.Context(), evidence.KeyFromSeed(1), newReport(t, "bank")); err != nil {
			t.Error(err)
		}
		return bucket.Conflict(name, "there already")
	}})
	r := newReport(t, "bank")
	out, err := s.Append(t.Context(), evidence.KeyFromSeed(1), r)
	if err != nil || out.Report.Number != 1 || out.Report.ID != r.ID {
		t.Errorf("%v, number %d", err, out.Report.Number)
	}
	if n := len(files(t, evidence.NewStore(inner), "bank", 0)); n != 2 {
		t.Errorf("%d reports, want each once", n)
	}
}

// TestStoreRefusesABucketWithoutConditions: there two drills could write over each other.
func TestStoreRefusesABucketWithoutConditions(t *testing.T) {
	s := evidence.NewStore(heedless{dir.New(vfs.OS(), t.TempDir())})
	if _, err := s.Append(t.Context(), evidence.KeyFromSeed(1), newReport(t, "bank")); tidegate.ClassOf(err) != tidegate.Misuse || !errors.Is(err, tidegate.ErrUnsupported) {
		t.Errorf("%v", err)
	}
}

type heedless struct{ bucket.Bucket }

func (h heedless) Put(ctx context.Context, name string, body bucket.Body, _ bucket.PutOptions) (bucket.Object, error) {
	return h.Bucket.Put(ctx, name, body, bucket.PutOptions{})
}
