package bucket_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/rates"
)

func TestLimitHoldsBytesBack(t *testing.T) {
	const name = "archive"
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		files := rates.New(dir, clock.System(), slog.New(slog.DiscardHandler), []rates.Limit{{Name: name, Unit: rates.BytesPerSecond}})
		set := func(rate string) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(rate), 0o600); err != nil {
				t.Fatal(err)
			}
			files.Read()
		}
		b := bucket.Limit(memory(t), files.Limiter(name))
		set("1000")
		start := time.Now()
		for range 10 {
			put(t, b, "it", strings.Repeat("x", 1000))
		}
		if took := time.Since(start); took < 8*time.Second || took > 11*time.Second {
			t.Errorf("10 kB at 1 kB/s put within %s", took)
		}
		start = time.Now()
		for range 10 {
			r, err := b.Get(t.Context(), "it", 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); err != nil || len(got) != 1000 {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			r.Close()
		}
		if took := time.Since(start); took < 8*time.Second || took > 11*time.Second {
			t.Errorf("10 kB at 1 kB/s got within %s", took)
		}
		set("0")
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, err := b.Put(ctx, "other", strings.NewReader("x"), bucket.PutOptions{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("put while everything is stopped: %v", err)
		}
		if _, err := b.Get(ctx, "it", 0, -1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got while everything is stopped: %v", err)
		}
	})
}
