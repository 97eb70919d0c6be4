package kmstest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// Keys that a server has, each in its own region; the last two are one multi-Region key.
const (
	Key      = "arn:aws:kms:eu-west-1:111122223333:key/11111111-2222-3333-4444-555555555555"
	Other    = "arn:aws:kms:us-east-2:111122223333:key/99999999-8888-7777-6666-555555555555"
	Multi    = "arn:aws:kms:eu-west-1:111122223333:key/mrk-0123456789abcdef0123456789abcdef"
	MultiFar = "arn:aws:kms:us-east-2:111122223333:key/mrk-0123456789abcdef0123456789abcdef"
	Alias    = "alias/tidegate" // of Key, in its region
)

// Server answers GenerateDataKey and Decrypt. Its fields may be changed while no
// request is under way.
type Server struct {
	URL string
	// Answer, where it is not nil, answers instead: an HTTP status and a code, "" for
	// no; it is asked with the operation and the key.
	Answer func(op, key string) (status int, code, message string)
	// Meanwhile is called while a request is answered; nil: nothing.
	Meanwhile func(op string)

	mu    sync.Mutex
	asked map[string]int // operations, by name
}

// New starts a server, which ends with the test, and gives the test credentials.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{asked: map[string]int{}}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	s.URL = h.URL
	return s
}

// Credentials gives the test the only credentials that a server accepts.
func Credentials(t *testing.T) {
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_ACCESS_KEY_ID", accessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
}

const accessKey = "AKIDEXAMPLE"

// Asked is how often an operation was asked for.
func (s *Server) Asked(op string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[op]
}

// fault is an answer that is no success.
type fault struct {
	status        int
	code, message string
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	op, _ := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	s.mu.Lock()
	s.asked[op]++
	s.mu.Unlock()
	if s.Meanwhile != nil {
		s.Meanwhile(op)
	}
	out, f := s.answer(op, r)
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	if f != nil {
		out = map[string]any{"__type": f.code, "message": f.message}
		w.WriteHeader(f.status)
	}
	_ = json.NewEncoder(w).Encode(out) // whoever asked may have gone
}

func (s *Server) answer(op string, r *http.Request) (any, *fault) {
	region, f := region(r)
	if f != nil {
		return nil, f
	}
	if r.Method != http.MethodPost || r.URL.Path != "/" || r.Header.Get("Content-Type") != "application/x-amz-json-1.1" {
		return nil, &fault{http.StatusBadRequest, "SerializationException", r.Method + " " + r.URL.Path}
	}
	switch op {
	case "GenerateDataKey":
		return s.generate(r, region)
	case "Decrypt":
		return s.decrypt(r, region)
	}
	return nil, &fault{http.StatusBadRequest, "UnknownOperationException", op}
}

// region is that of the signature's scope, whose credentials must be those known.
func region(r *http.Request) (string, *fault) {
	_, scope, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	parts := strings.Split(strings.SplitN(scope, ",", 2)[0], "/")
	if len(parts) != 5 || parts[3] != "kms" {
		return "", &fault{http.StatusBadRequest, "MissingAuthenticationTokenException", "Missing Authentication Token"}
	}
	if parts[0] != accessKey {
		return "", &fault{http.StatusBadRequest, "UnrecognizedClientException", "The security token included in the request is invalid."}
	}
	return parts[2], nil
}

// key finds a key by its name in a region, and says what is wrong with it.
func (s *Server) key(op, name, region string) (string, *fault) {
	if s.Answer != nil {
		if status, code, message := s.Answer(op, name); code != "" || status != 0 {
			return "", &fault{status, code, message}
		}
	}
	for _, arn := range []string{Key, Other, Multi, MultiFar} {
		in := strings.Contains(arn, ":"+region+":")
		if in && (name == arn || name == arn[strings.LastIndex(arn, "/")+1:] || arn == Key && name == Alias) {
			return arn, nil
		}
	}
	return "", &fault{http.StatusBadRequest, "NotFoundException", fmt.Sprintf("Key '%s' does not exist", name)}
}

type generateRequest struct {
	KeyId             string
	KeySpec           string
	EncryptionContext map[string]string
}

func (s *Server) generate(r *http.Request, region string) (any, *fault) {
	in, f := body[generateRequest](r)
	if f != nil {
		return nil, f
	}
	arn, f := s.key("GenerateDataKey", in.KeyId, region)
	if f != nil {
		return nil, f
	}
	if in.KeySpec != "AES_256" {
		return nil, &fault{http.StatusBadRequest, "ValidationException", "KeySpec " + in.KeySpec}
	}
	plain, nonce := make([]byte, 32), make([]byte, 12)
	_, _ = rand.Read(plain) // never fails, by its documentation
	_, _ = rand.Read(nonce) // as above
	id := arn[strings.LastIndex(arn, "/")+1:]
	blob := append([]byte{byte(len(id))}, id...)
	blob = append(blob, nonce...)
	blob = aead(id).Seal(blob, nonce, plain, canonical(in.EncryptionContext))
	return map[string]any{"CiphertextBlob": blob, "KeyId": arn, "KeyMaterialId": strings.Repeat("0a", 32), "Plaintext": plain}, nil
}

type decryptRequest struct {
	CiphertextBlob    []byte
	KeyId             string
	EncryptionContext map[string]string
}

func (s *Server) decrypt(r *http.Request, region string) (any, *fault) {
	in, f := body[decryptRequest](r)
	if f != nil {
		return nil, f
	}
	arn, f := s.key("Decrypt", in.KeyId, region)
	if f != nil {
		return nil, f
	}
	bad := &fault{http.StatusBadRequest, "InvalidCiphertextException", ""}
	if len(in.CiphertextBlob) < 1 || len(in.CiphertextBlob) < 1+int(in.CiphertextBlob[0])+12 {
		return nil, bad
	}
	n := 1 + int(in.CiphertextBlob[0])
	id, nonce, sealed := string(in.CiphertextBlob[1:n]), in.CiphertextBlob[n:n+12], in.CiphertextBlob[n+12:]
	if !strings.HasSuffix(arn, "/"+id) {
		return nil, &fault{http.StatusBadRequest, "IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation."}
	}
	plain, err := aead(id).Open(nil, nonce, sealed, canonical(in.EncryptionContext))
	if err != nil {
		return nil, bad
	}
	return map[string]any{"EncryptionAlgorithm": "SYMMETRIC_DEFAULT", "KeyId": arn, "KeyMaterialId": strings.Repeat("0a", 32), "Plaintext": plain}, nil
}

// body reads a request, which must have nothing but what the shape has.
func body[T any](r *http.Request) (in T, f *fault) {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return in, &fault{http.StatusBadRequest, "SerializationException", err.Error()}
	}
	return in, nil
}

// canonical is a context's bytes: maps are encoded in the order of their keys.
func canonical(context map[string]string) []byte {
	var b bytes.Buffer
	_ = json.NewEncoder(&b).Encode(context) // a map of texts can always be
	return b.Bytes()
}

// aead seals under the key with that id.
func aead(id string) cipher.AEAD {
	key := sha256.Sum256([]byte("the material of " + id))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // a key of 32 bytes is one
	}
	a, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // AES has blocks of 16 bytes
	}
	return a
}
