package kms

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/archive/bucket/encrypt"
	"github.com/tidegate/tidegate/archive/bucket/kms/kmstest"
	"github.com/tidegate/tidegate/archive/bucket/place"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/internal/vfs"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

func plainBucket(t testing.TB) bucket.Bucket {
	t.Helper()
	mem := vfs.NewMem()
	if err := mem.MkdirAll("/archive"); err != nil {
		t.Fatal(err)
	}
	return dir.New(mem, "/archive")
}

// world is an archive's bucket, a key service, and a clock.
type world struct {
	*kmstest.Server

	in  bucket.Bucket
	now time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	kmstest.Credentials(t)
	return &world{Server: kmstest.New(t), in: plainBucket(t), now: time.Unix(1_790_000_000, 0)}
}

// ring is that of another process, which asks again for as long as giveUp.
func (w *world) ring(key string, giveUp time.Duration) *Ring {
	quick := retry.Policy{First: time.Microsecond, Max: time.Microsecond}
	return open(place.KMS{Key: key, Endpoint: w.URL, Region: regionOf(key)}, w.in, quick, giveUp, func() time.Time { return w.now })
}

// regionOf is what must be said of a key that is no ARN.
func regionOf(key string) string {
	if place.KeyRegion(key) == "" {
		return "eu-west-1"
	}
	return ""
}

func put(t *testing.T, b bucket.Bucket, name, text string) error {
	t.Helper()
	_, err := b.Put(t.Context(), name, strings.NewReader(text), bucket.PutOptions{})
	return err
}

func get(t *testing.T, b bucket.Bucket, name string) (string, error) {
	t.Helper()
	text, _, err := bucket.ReadAll(t.Context(), b, name, 1<<20)
	return string(text), err
}

func mustPut(t *testing.T, b bucket.Bucket, name, text string) {
	t.Helper()
	if err := put(t, b, name, text); err != nil {
		t.Fatal(err)
	}
}

func mustGet(t *testing.T, b bucket.Bucket, name, want string) {
	t.Helper()
	if text, err := get(t, b, name); err != nil || text != want {
		t.Errorf("%s: %q, %v; want %q", name, text, err, want)
	}
}

func names(t *testing.T, b bucket.Bucket, prefix string) (out []string) {
	t.Helper()
	for o, err := range b.List(t.Context(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, o.Name)
	}
	return out
}

func TestArchiveUnderAKMSKey(t *testing.T) {
	for _, key := range []string{kmstest.Key, kmstest.Alias, kmstest.Key[strings.LastIndex(kmstest.Key, "/")+1:]} {
		w := newWorld(t)
		writer := encrypt.New(w.in, w.ring(key, 0))
		for _, name := range []string{"a/1", "a/2", "a/3"} {
			mustPut(t, writer, name, "text of "+name)
		}
		if n := w.Asked("GenerateDataKey"); n != 1 {
			t.Errorf("%d keys were made", n)
		}
		if n := w.Asked("Decrypt"); n > 2 {
			t.Errorf("for three objects the service was asked %d times", n)
		}
		before := w.Asked("Decrypt")
		reader := encrypt.New(w.in, w.ring(key, 0)) // another machine, with credentials alone
		for _, name := range []string{"a/1", "a/2", "a/3"} {
			mustGet(t, reader, name, "text of "+name)
		}
		if n := w.Asked("Decrypt") - before; n != 1 || w.Asked("GenerateDataKey") != 1 {
			t.Errorf("to read: %d keys opened, %d made", n, w.Asked("GenerateDataKey"))
		}
		d, err := w.ring(key, 0).read(t.Context(), "kms-0001")
		if err != nil || d.KMSKey != kmstest.Key || !d.Created.Equal(w.now) {
			t.Errorf("%+v, %v", d, err)
		}
	}
}

// TestRotation: another key of the archive, under the same and under another KMS key in
// another region; old objects stay readable, and processes that run get to know of it.
func TestRotation(t *testing.T) {
	w := newWorld(t)
	old := w.ring(kmstest.Key, 0)
	writer := encrypt.New(w.in, old)
	reader := encrypt.New(w.in, w.ring(kmstest.Key, 0))
	if _, err := old.Rotate(t.Context()); tidegate.ClassOf(err) != tidegate.Refused || tidegate.HintOf(err) == "" {
		t.Errorf("without a first one: %v", err)
	}
	mustPut(t, writer, "a/1", "one")
	mustGet(t, reader, "a/1", "one")
	for i, key := range []string{kmstest.Key, kmstest.Other} {
		d, err := w.ring(key, 0).Rotate(t.Context())
		if err != nil || d.ID != keyID(i+2) || d.KMSKey != key {
			t.Fatalf("%+v, %v", d, err)
		}
		newest := encrypt.New(w.in, w.ring(key, 0))
		mustPut(t, newest, "a/"+key[12:], key)
		mustGet(t, reader, "a/"+key[12:], key) // of a key that it has not seen
		mustGet(t, newest, "a/1", "one")
	}
	newestOf := func() string {
		id, _, err := old.Newest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	if id := newestOf(); id != "kms-0001" {
		t.Errorf("%s, before it looks again", id)
	}
	w.now = w.now.Add(LookEvery)
	if id := newestOf(); id != "kms-0003" {
		t.Errorf("%s, after it has looked", id)
	}
	states, err := old.List(t.Context())
	if err != nil || len(states) != 3 || states[0].Err != nil || states[2].Err != nil {
		t.Errorf("%+v, %v", states, err)
	}
	// The old KMS key is disabled: what lies under it says so, everything else goes on.
	w.Answer = func(_, key string) (int, string, string) {
		if key == kmstest.Key {
			return 400, "DisabledException", key + " is disabled."
		}
		return 0, "", ""
	}
	after := encrypt.New(w.in, w.ring(kmstest.Other, 0))
	mustPut(t, after, "a/4", "four")
	mustGet(t, after, "a/4", "four")
	if _, err := get(t, after, "a/1"); tidegate.ClassOf(err) != tidegate.Misuse || !strings.Contains(tidegate.HintOf(err), "enable the KMS key") {
		t.Errorf("%v, hint %q", err, tidegate.HintOf(err))
	}
	if states, err = old.List(t.Context()); err != nil || states[0].Err == nil || states[2].Err != nil {
		t.Errorf("%+v, %v", states, err)
	}
}

// TestTwoBeginAtOnce: of two nodes that make a first key at the same moment one has its
// way, and both put under that one.
func TestTwoBeginAtOnce(t *testing.T) {
	w := newWorld(t)
	var both sync.WaitGroup
	both.Add(2)
	w.Meanwhile = func(op string) {
		if op == "GenerateDataKey" {
			both.Done()
			both.Wait()
		}
	}
	var all sync.WaitGroup
	var ids [2]string
	var keys [2][encrypt.KeyBytes]byte
	var errs [2]error
	for i := range 2 {
		all.Go(func() { ids[i], keys[i], errs[i] = w.ring(kmstest.Key, 0).Newest(t.Context()) })
	}
	all.Wait()
	if err := errors.Join(errs[:]...); err != nil || ids[0] != ids[1] || keys[0] != keys[1] {
		t.Errorf("%v, %v", ids, err)
	}
	if got := names(t, w.in, Prefix); len(got) != 1 {
		t.Errorf("%q", got)
	}
}

// TestTwoRotateAtOnce: one of them is told that somebody else has.
func TestTwoRotateAtOnce(t *testing.T) {
	w := newWorld(t)
	mustPut(t, encrypt.New(w.in, w.ring(kmstest.Key, 0)), "a/1", "one")
	var both, all sync.WaitGroup
	both.Add(2)
	w.Meanwhile = func(op string) {
		if op == "GenerateDataKey" {
			both.Done()
			both.Wait()
		}
	}
	var errs [2]error
	for i := range 2 {
		all.Go(func() { _, errs[i] = w.ring(kmstest.Key, 0).Rotate(t.Context()) })
	}
	all.Wait()
	if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs[:]...), tidegate.ErrConflict) {
		t.Errorf("%v", errs)
	}
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		status        int
		code, message string
		class         tidegate.Class
		is            error
		hint          string
	}{
		{400, "AccessDeniedException", "User: x is not authorized to perform: kms:GenerateDataKey", tidegate.Misuse, tidegate.ErrDenied, "policy"},
		{400, "ExpiredTokenException", "", tidegate.Misuse, tidegate.ErrDenied, "still valid"},
		{400, "UnrecognizedClientException", "", tidegate.Misuse, tidegate.ErrDenied, "credentials"},
		{403, "", "", tidegate.Misuse, tidegate.ErrDenied, "policy"},
		{400, "DisabledException", "arn:… is disabled.", tidegate.Misuse, nil, "enable"},
		{400, "KMSInvalidStateException", "arn:… is pending deletion.", tidegate.Misuse, nil, "cancel-key-deletion"},
		{400, "KMSInvalidStateException", "arn:… is pending import.", tidegate.Misuse, nil, "state"},
		{400, "NotFoundException", "Key does not exist", tidegate.Misuse, nil, "in the region eu-west-1"},
		{400, "InvalidKeyUsageException", "", tidegate.Misuse, nil, "symmetric"},
		{400, "RequestExpired", "", tidegate.Misuse, nil, "clock"},
		{400, "ThrottlingException", "", tidegate.Transient, nil, ""},
		{400, "KeyUnavailableException", "", tidegate.Transient, nil, ""},
		{500, "KMSInternalException", "", tidegate.Transient, nil, ""},
		{503, "", "", tidegate.Transient, nil, ""},
		{400, "SomethingNew", "", tidegate.Permanent, nil, ""},
	} {
		w := newWorld(t)
		w.Answer = func(string, string) (int, string, string) { return c.status, c.code, c.message }
		_, _, err := w.ring(kmstest.Key, 0).Newest(t.Context())
		if tidegate.ClassOf(err) != c.class || c.is != nil && !errors.Is(err, c.is) || errors.Is(err, tidegate.ErrNotFound) ||
			!strings.Contains(tidegate.HintOf(err), c.hint) || err != nil && !strings.Contains(err.Error(), kmstest.Key) {
			t.Errorf("%d %s: %v, class %s, hint %q", c.status, c.code, err, tidegate.ClassOf(err), tidegate.HintOf(err))
		}
		if got := names(t, w.in, Prefix); len(got) > 0 {
			t.Errorf("%s: %q is there all the same", c.code, got)
		}
	}
}

// TestKeyThatNobodyCouldOpen: whoever may have keys made and not open them puts none.
func TestKeyThatNobodyCouldOpen(t *testing.T) {
	w := newWorld(t)
	w.Answer = func(op, _ string) (int, string, string) {
		if op == "Decrypt" {
			return 400, "AccessDeniedException", "User: x is not authorized to perform: kms:Decrypt"
		}
		return 0, "", ""
	}
	if _, _, err := w.ring(kmstest.Key, 0).Newest(t.Context()); !errors.Is(err, tidegate.ErrDenied) {
		t.Errorf("%v", err)
	}
	if got := names(t, w.in, Prefix); len(got) > 0 {
		t.Errorf("%q is there all the same", got)
	}
}

func TestNobodyAnswers(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.URL = "http://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, _, err = w.ring(kmstest.Key, 0).Newest(t.Context())
	if tidegate.ClassOf(err) != tidegate.Transient || !strings.Contains(err.Error(), kmstest.Key) {
		t.Errorf("%v", err)
	}
}

// TestPassingFaults: what passes is asked again, and while it lasts the context ends it.
func TestPassingFaults(t *testing.T) {
	w := newWorld(t)
	left := 3
	w.Answer = func(string, string) (int, string, string) {
		if left--; left >= 0 {
			return 500, "KMSInternalException", ""
		}
		return 0, "", ""
	}
	mustPut(t, encrypt.New(w.in, w.ring(kmstest.Key, time.Hour)), "a", "x")
	w.Answer = func(string, string) (int, string, string) { return 500, "KMSInternalException", "" }
	ctx, cancel := context.WithCancel(t.Context())
	w.Meanwhile = func(string) { cancel() }
	if _, err := w.ring(kmstest.Key, time.Hour).Key(ctx, "kms-0001"); err == nil {
		t.Error("no error")
	}
}

func TestNoCredentials(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	_, _, err := w.ring(kmstest.Key, 0).Newest(t.Context())
	if !errors.Is(err, tidegate.ErrDenied) || tidegate.HintOf(err) == "" {
		t.Errorf("%v, hint %q", err, tidegate.HintOf(err))
	}
}

// TestBoundToTheArchive: a wrapped key opens nowhere but in the archive and under the id
// that it was made for, and one that was changed opens nowhere.
func TestBoundToTheArchive(t *testing.T) {
	w := newWorld(t)
	mustPut(t, encrypt.New(w.in, w.ring(kmstest.Key, 0)), "a", "x")
	good, err := get(t, w.in, "keys/kms-0001.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal([]byte(good), &doc); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(map[string]any){
		"another archive": func(d map[string]any) { d["archive"] = strings.Repeat("ab", archiveBytes) },
		"another key":     func(d map[string]any) { d["kms_key"] = kmstest.Other },
		"flipped":         func(d map[string]any) { d["wrapped"] = flipped(d["wrapped"].(string)) },
		"no archive":      func(d map[string]any) { d["archive"] = "x" },
		"no KMS key":      func(d map[string]any) { d["kms_key"] = "x" },
		"another id":      func(d map[string]any) { d["id"] = "kms-0002" },
		"no key":          func(d map[string]any) { d["wrapped"] = "" },
		"no format":       func(d map[string]any) { d["format"] = "x" },
	} {
		changed := maps.Clone(doc)
		change(changed)
		b, err := json.Marshal(changed)
		if err != nil {
			t.Fatal(err)
		}
		mustPut(t, w.in, "keys/kms-0001.json", string(b))
		_, err = get(t, encrypt.New(w.in, w.ring(kmstest.Key, 0)), "a")
		if tidegate.ClassOf(err) != tidegate.Corrupt || tidegate.HintOf(err) == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	mustPut(t, w.in, "keys/kms-0001.json", strings.Replace(good, `"version": 1`, `"version": 2`, 1))
	if _, err = get(t, encrypt.New(w.in, w.ring(kmstest.Key, 0)), "a"); !errors.Is(err, tidegate.ErrUnsupported) {
		t.Errorf("another version: %v", err)
	}
	// Its second key may not be another archive's either.
	mustPut(t, w.in, "keys/kms-0001.json", good)
	second := strings.NewReplacer("kms-0001", "kms-0002", doc["archive"].(string), strings.Repeat("ab", archiveBytes)).Replace(good)
	mustPut(t, w.in, "keys/kms-0002.json", second)
	if err := put(t, encrypt.New(w.in, w.ring(kmstest.Key, 0)), "b", "x"); tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("keys of two archives: %v", err)
	}
}

func flipped(wrapped string) string {
	b := []byte(wrapped)
	if b[20]++; b[20] > 'z' {
		b[20] = 'A'
	}
	return string(b)
}

// TestKeysThatAreGone: no key is made where objects tell that there was one, and what
// runs notices that a key it uses is gone.
func TestKeysThatAreGone(t *testing.T) {
	w := newWorld(t)
	ring := w.ring(kmstest.Key, 0)
	b := encrypt.New(w.in, ring)
	mustPut(t, b, "a", "x")
	good, err := get(t, w.in, "keys/kms-0001.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.in.Remove(t.Context(), "keys/kms-0001.json"); err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, encrypt.New(w.in, w.ring(kmstest.Key, 0)), "a"); tidegate.ClassOf(err) != tidegate.Corrupt || !strings.Contains(tidegate.HintOf(err), "keys/") {
		t.Errorf("%v, hint %q", err, tidegate.HintOf(err))
	}
	if err := put(t, encrypt.New(w.in, w.ring(kmstest.Key, 0)), "b", "x"); tidegate.ClassOf(err) != tidegate.Misuse || !strings.Contains(tidegate.HintOf(err), "from its beginning") {
		t.Errorf("%v, hint %q", err, tidegate.HintOf(err))
	}
	mustGet(t, b, "a", "x")
	w.now = w.now.Add(LookEvery)
	if err := put(t, b, "b", "x"); tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("what runs has not noticed: %v", err)
	}
	mustPut(t, w.in, "keys/kms-0001.json", good)
	mustPut(t, b, "b", "x")
}

func TestArchivesThatWereBegunOtherwise(t *testing.T) {
	w := newWorld(t)
	keys, err := encrypt.ParseKeys("one " + strings.Repeat("0a", encrypt.KeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, encrypt.New(w.in, keys), "a", "x")
	b := encrypt.New(w.in, w.ring(kmstest.Key, 0))
	if _, err := get(t, b, "a"); tidegate.ClassOf(err) != tidegate.Misuse || !strings.Contains(tidegate.HintOf(err), "key file") {
		t.Errorf("%v, hint %q", err, tidegate.HintOf(err))
	}
	if err := put(t, b, "b", "x"); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("put beside: %v", err)
	}
	if _, err := get(t, b, "none"); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("what is not there: %v", err)
	}
	// What crosses by the bucket may have been there before the archive.
	crossing := newWorld(t)
	mustPut(t, crossing.in, "drop/west-1/00000000000000000000000000000000-up-0000000000000000", "TLS")
	mustPut(t, encrypt.New(crossing.in, crossing.ring(kmstest.Key, 0)), "a", "x")
}

// careless is a bucket that ignores the conditions of a write.
type careless struct{ bucket.Bucket }

func (c careless) Put(ctx context.Context, name string, body bucket.Body, _ bucket.PutOptions) (bucket.Object, error) {
	return c.Bucket.Put(ctx, name, body, bucket.PutOptions{})
}

func TestNoKeyWithoutConditions(t *testing.T) {
	w := newWorld(t)
	w.in = careless{w.in}
	_, _, err := w.ring(kmstest.Key, 0).Newest(t.Context())
	if !errors.Is(err, tidegate.ErrUnsupported) || w.Asked("GenerateDataKey") > 0 {
		t.Errorf("%v, %d keys made", err, w.Asked("GenerateDataKey"))
	}
}

// TestReplicaOfTheKey: while one region is down, a multi-Region key opens in another.
func TestReplicaOfTheKey(t *testing.T) {
	w := newWorld(t)
	mustPut(t, encrypt.New(w.in, w.ring(kmstest.Multi, 0)), "a", "x")
	w.Answer = func(_, key string) (int, string, string) {
		if strings.Contains(key, "eu-west-1") {
			return 503, "ServiceUnavailable", ""
		}
		return 0, "", ""
	}
	far := open(place.KMS{Key: kmstest.Multi, Region: "us-east-2", Endpoint: w.URL}, w.in, retry.Policy{}, 0, time.Now)
	mustGet(t, encrypt.New(w.in, far), "a", "x")
}

func TestWhoWaitsForAKeyCanBeCancelled(t *testing.T) {
	w := newWorld(t)
	r := w.ring(kmstest.Key, 0)
	if err := r.take(t.Context()); err != nil { // somebody asks a service that hangs
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := r.Newest(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, err := r.Key(ctx, "kms-0001"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestNothingSecretIsInTheBucket(t *testing.T) {
	w := newWorld(t)
	ring := w.ring(kmstest.Key, 0)
	_, key, err := ring.Newest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names(t, w.in, "") {
		r, err := w.in.Get(t.Context(), name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil || bytes.Contains(b, key[:]) {
			t.Errorf("%s: %v, or it has the key", name, err)
		}
	}
	if got := names(t, w.in, ""); !slices.Contains(got, "keys/kms-0001.json") {
		t.Errorf("%q", got)
	}
}

func FuzzParse(f *testing.F) {
	d := Document{Archive: strings.Repeat("ab", archiveBytes), ID: "kms-0001", KMSKey: kmstest.Key, Wrapped: []byte("x"), Created: time.Unix(1_790_000_000, 0).UTC()}
	f.Add(d.encode())
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parse("kms-0001", b)
		if err != nil {
			return
		}
		if again, err := parse("kms-0001", d.encode()); err != nil || !bytes.Equal(again.encode(), d.encode()) {
			t.Fatalf("%+v, %v", again, err)
		}
	})
}

// TestKeyOfAStranger: a document that somebody put there names a key of another account.
func TestKeyOfAStranger(t *testing.T) {
	const theirs = "arn:aws:kms:eu-west-1:999900001111:key/11111111-2222-3333-4444-555555555555"
	w := newWorld(t)
	if _, _, err := w.ring(kmstest.Key, 0).Newest(t.Context()); err != nil {
		t.Fatal(err)
	}
	first, err := parse("kms-0001", []byte(mustRead(t, w.in, documentName("kms-0001"))))
	if err != nil {
		t.Fatal(err)
	}
	d := Document{Archive: first.Archive, ID: "kms-0002", KMSKey: theirs, Wrapped: []byte("x"), Created: first.Created}
	mustPut(t, w.in, documentName(d.ID), string(d.encode()))
	if _, _, err := w.ring(kmstest.Key, 0).Newest(t.Context()); tidegate.ClassOf(err) != tidegate.Refused || tidegate.HintOf(err) == "" {
		t.Errorf("encrypts under it: %v", err)
	}
	if _, _, err := w.ring(theirs, 0).Newest(t.Context()); err == nil || tidegate.ClassOf(err) == tidegate.Refused {
		t.Errorf("named in the configuration: %v", err)
	}
}

func mustRead(t *testing.T, b bucket.Bucket, name string) string {
	t.Helper()
	text, err := get(t, b, name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
