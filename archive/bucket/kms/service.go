package kms

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket/awschain"
	"github.com/tidegate/tidegate/archive/bucket/encrypt"
	"github.com/tidegate/tidegate/archive/bucket/place"
	"github.com/tidegate/tidegate/archive/bucket/s3api"
	"github.com/tidegate/tidegate/internal/retry"
)

// requestTimeout is of one request; both questions and answers are small.
const requestTimeout = 20 * time.Second

// service speaks with AWS KMS.
type service struct {
	cfg    place.KMS
	policy retry.Policy
	giveUp time.Duration // for how long what failed transiently is asked again

	mu      sync.Mutex
	clients map[string]*kms.Client // by region
}

func newService(cfg place.KMS, policy retry.Policy, giveUp time.Duration) *service {
	return &service{cfg: cfg, policy: policy, giveUp: giveUp, clients: map[string]*kms.Client{}}
}

// client returns the client of a region; empty: the one that the library finds.
func (s *service) client(ctx context.Context, region string) (*kms.Client, error) {
	s.mu.Lock()
	c := s.clients[region]
	s.mu.Unlock()
	if c != nil {
		return c, nil
	}
	loaded, err := awschain.Load(ctx, "key service", region, "archive.encryption.kms.region")
	if err != nil {
		return nil, err
	}
	transport, err := s3api.Config{}.Transport()
	if err != nil {
		return nil, err
	}
	c = kms.NewFromConfig(loaded, func(o *kms.Options) {
		o.HTTPClient = &http.Client{Transport: transport, Timeout: requestTimeout}
		if s.cfg.Endpoint != "" {
			o.BaseEndpoint = aws.String(s.cfg.Endpoint)
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients[region] = c
	return c, nil
}

// made is a new key from the service.
type made struct {
	plain   [encrypt.KeyBytes]byte
	wrapped []byte
	kmsKey  string // ARN
}

// generate asks for a new key, bound to what d's context says.
func (s *service) generate(ctx context.Context, d Document) (m made, err error) {
	op := "make key " + d.ID + " under"
	err = s.ask(ctx, s.cfg.Key, s.region(s.cfg.Key), op, func(c *kms.Client) error {
		out, err := c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: &s.cfg.Key, KeySpec: types.DataKeySpecAes256, EncryptionContext: d.context()})
		if err != nil {
			return err
		}
		m = made{wrapped: out.CiphertextBlob, kmsKey: aws.ToString(out.KeyId)}
		m.plain, err = plainKey(out.Plaintext)
		return err
	})
	return m, err
}

// open has the service decrypt d's key.
func (s *service) open(ctx context.Context, d Document) (key [encrypt.KeyBytes]byte, err error) {
	id := s.near(d.KMSKey)
	err = s.ask(ctx, id, s.region(id), "open key "+d.ID+" by", func(c *kms.Client) error {
		out, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: d.Wrapped, KeyId: &id, EncryptionContext: d.context()})
		if err != nil {
			return err
		}
		key, err = plainKey(out.Plaintext)
		return err
	})
	return key, err
}

// near is the replica, in the region that is configured, of a KMS key that has some: it
// opens what any other of them has wrapped, also while their region is down.
func (s *service) near(arn string) string {
	if s.cfg.Region == "" || !place.MultiRegion(arn) {
		return arn
	}
	return strings.Replace(arn, ":"+place.KeyRegion(arn)+":", ":"+s.cfg.Region+":", 1)
}

// region is where a KMS key is asked for.
func (s *service) region(key string) string {
	if named := place.KeyRegion(key); named != "" && !place.MultiRegion(key) {
		return named
	}
	if s.cfg.Region != "" {
		return s.cfg.Region
	}
	return place.KeyRegion(key)
}

// ask asks again for as long as the answer is that it may be otherwise in a moment.
func (s *service) ask(ctx context.Context, key, region, op string, question func(*kms.Client) error) error {
	c, err := s.client(ctx, region)
	if err != nil {
		return err
	}
	wait, since := s.policy.Backoff(), time.Now()
	for {
		err := judge(op, key, c.Options().Region, question(c))
		if err == nil || tidegate.ClassOf(err) != tidegate.Transient || ctx.Err() != nil || time.Since(since) >= s.giveUp {
			return err
		}
		if wait.Wait(ctx) != nil {
			return err
		}
	}
}
