package registry

import (
	"context"
	"log/slog"
	"time"

	"go.uber.org/zap/zapcore"
)

// slogCore passes etcd's warnings and errors on to slog and drops the rest:
// etcd's INFO is a page at every start.
type slogCore struct {
	log    *slog.Logger
	fields []zapcore.Field
}

func (c *slogCore) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

func (c *slogCore) With(fields []zapcore.Field) zapcore.Core {
	return &slogCore{log: c.log, fields: append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

func (c *slogCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c *slogCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range c.fields {
		f.AddTo(enc)
	}
	for _, f := range fields {
		f.AddTo(enc)
	}
	level := slog.LevelWarn
	if e.Level >= zapcore.ErrorLevel {
		level = slog.LevelError
	}
	rec := slog.NewRecord(time.Now(), level, "registry member", 0)
	rec.AddAttrs(slog.String("event", e.Message), slog.Any("fields", enc.Fields))
	return c.log.Handler().Handle(context.Background(), rec)
}

func (c *slogCore) Sync() error { return nil }
