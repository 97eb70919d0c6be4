package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// Bounds of [BackupOptions.RateMax]: what the server takes, in bytes a second.
const (
	RateMin = 32 << 10
	RateMax = 1 << 30
)

// BackupOptions say how to take a base backup. The zero value is good.
type BackupOptions struct {
	Label    string // for people, in backup_label; "" is "tidegate"
	Spread   bool   // wait for the server's next checkpoint, minutes, instead of making one now
	RateMax  int64  // bytes a second, [RateMin] to [RateMax], kept by the server; 0 is as fast as the sink takes them
	StallMax time.Duration
	// StallMax bounds the server's silence once files have begun to arrive; 0 is 5
	// minutes. Until then a checkpoint is written, which is for ctx to bound.

	// Progress is called now and then, from the goroutine that called BaseBackup:
	// bytes received so far, and the server's guess of all, which data that is
	// written meanwhile makes wrong. Nil is nobody.
	Progress func(received, total int64)
}

// Tablespace is a directory of the server outside of its data directory.
type Tablespace struct {
	OID      uint32
	Location string // absolute path on the server that was backed up
	Bytes    int64  // the server's guess
}

// Backup is what a base backup is good for.
type Backup struct {
	// Start is the redo of the backup: replay begins here, so the log must be kept
	// from the start of the segment that holds it.
	Start         wal.LSN
	StartTimeline wal.Timeline
	// End is where the log must be replayed to before the files are consistent.
	End         wal.LSN
	EndTimeline wal.Timeline
	Tablespaces []Tablespace
	Files       int
	Bytes       int64 // of files
}

// Where BaseBackup puts things that no server has there.
const (
	// TablespaceDir holds a directory per tablespace, named by its OID, where a
	// server has links. Its log and the file tablespace_map name them likewise.
	TablespaceDir = "pg_tblspc"
	// ManifestName is the server's own list of the backup, for pg_verifybackup.
	ManifestName = "backup_manifest"
)

// BaseBackup copies the server's files into w, with the log left out, which comes
// by a stream: make the slot first. What w gets: the data directory's files and
// directories by their paths in it; every tablespace below [TablespaceDir]; the
// files backup_label and tablespace_map; last, the server's manifest as
// [ManifestName]. Every file's size and CRC-32C have been compared with the
// manifest, and the manifest with its own SHA-256, when it returns nil; after an
// error what w got is no backup.
//
// The connection stays usable after success; after an error it must be closed.
// Errors wrap [ErrRights], [ErrTooMany], [ErrPromoted], a *tidegate.CorruptError,
// or are w's own.
func (c *Conn) BaseBackup(ctx context.Context, o BackupOptions, w snapshot.Writer) (Backup, error) {
	command, err := o.command()
	if err != nil {
		return Backup{}, &tidegate.Error{Op: "back up", Subject: c.target, Class: tidegate.Misuse, Err: err}
	}
	b := &backup{
		pg: c.pg, stall: o.StallMax, progress: o.Progress,
		taker: taker{w: w, seen: map[string]sum{}},
	}
	if b.stall == 0 {
		b.stall = 5 * time.Minute
	}
	stop := context.AfterFunc(ctx, func() { _ = c.pg.Conn().SetDeadline(time.Unix(1, 0)) }) // ends what waits
	err = b.take(ctx, command)
	if !stop() {
		err = errors.Join(context.Cause(ctx), err)
	}
	if err == nil {
		err = c.pg.Conn().SetDeadline(time.Time{})
	}
	if err != nil {
		return Backup{}, c.fail("back up", err)
	}
	return b.result, nil
}

// command words BASE_BACKUP as servers from 15 on take it.
func (o BackupOptions) command() (string, error) {
	label := o.Label
	if label == "" {
		label = "tidegate"
	}
	if strings.ContainsAny(label, "\x00\n") || len(label) > 1024 {
		return "", errors.New("label: want one line of at most 1024 bytes")
	}
	checkpoint := "fast"
	if o.Spread {
		checkpoint = "spread"
	}
	rate := ""
	if o.RateMax != 0 {
		if o.RateMax < RateMin || o.RateMax > RateMax {
			return "", fmt.Errorf("rate max %d: want %d to %d bytes a second", o.RateMax, RateMin, RateMax)
		}
		rate = fmt.Sprintf(", MAX_RATE %d", o.RateMax>>10)
	}
	return fmt.Sprintf("BASE_BACKUP (LABEL '%s', PROGRESS, CHECKPOINT '%s', WAIT false, WAL false, "+
		"MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C', TABLESPACE_MAP%s)", strings.ReplaceAll(label, "'", "''"), checkpoint, rate), nil
}

// backup is one BASE_BACKUP on its way. It is a reader of whatever the message at
// hand is part of: an archive or the manifest.
type backup struct {
	pg       *pgconn.PgConn
	stall    time.Duration
	progress func(received, total int64)
	taker    taker
	result   Backup

	sets    int       // result sets begun
	total   int64     // bytes, as the server guesses
	copying bool      // between CopyOutResponse and CopyDone
	armed   time.Time // when the read deadline was last set

	rest []byte // of the message at hand; borrowed
	next part   // the part that begins where the one at hand ended
}

// part is what follows in the copy.
type part struct {
	kind byte // 'n': archive, 'm': manifest, 0: the end
	name string
}

func (b *backup) take(ctx context.Context, command string) error {
	front := b.pg.Frontend()
	front.SendQuery(&pgproto3.Query{String: command})
	if err := front.Flush(); err != nil {
		return err
	}
	if err := b.answers(); err != nil {
		return err
	}
	if !b.copying {
		return errors.New("the server sends no files")
	}
	// Nothing precedes the first part.
	if n, err := b.Read(make([]byte, 1)); n != 0 {
		return errors.New("the server sends data of no file")
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	for b.next.kind != 0 {
		if err := b.takePart(ctx); err != nil {
			return err
		}
	}
	if err := b.answers(); err != nil {
		return err
	}
	if b.result.End == 0 {
		return errors.New("the server does not say where the backup ends")
	}
	b.result.Files, b.result.Bytes = b.taker.files, b.taker.bytes
	b.report(b.taker.bytes)
	return b.taker.verify(ctx, b.result)
}

func (b *backup) takePart(ctx context.Context) error {
	p := b.next
	b.next = part{}
	var err error
	switch {
	case p.kind == 'm':
		err = b.taker.takeManifest(b)
	case p.name == "base.tar":
		err = b.taker.takeArchive(ctx, "", b)
	default:
		// "16385.tar"; where it was on the server is in the list of tablespaces.
		oid, ok := strings.CutSuffix(p.name, ".tar")
		if _, errOID := strconv.ParseUint(oid, 10, 32); !ok || errOID != nil {
			return fmt.Errorf("archive %q: want base.tar or <oid>.tar", p.name)
		}
		err = b.taker.takeArchive(ctx, TablespaceDir+"/"+oid, b)
	}
	if err != nil {
		return err
	}
	// What an archive has after its last entry.
	for buf := make([]byte, 4096); err == nil; {
		_, err = b.Read(buf)
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Read gives the bytes of the part at hand, and io.EOF after them.
func (b *backup) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if b.next.kind != 0 || !b.copying {
			return 0, io.EOF
		}
		m, err := b.receive()
		if err != nil {
			return 0, err
		}
		switch m := m.(type) {
		case *pgproto3.CopyData:
			if err := b.accept(m.Data); err != nil {
				return 0, err
			}
		case *pgproto3.CopyDone:
			b.copying = false
		case *pgproto3.ErrorResponse:
			return 0, pgconn.ErrorResponseToPgError(m)
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		default:
			return 0, fmt.Errorf("message %T in the backup", m)
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *backup) accept(d []byte) error {
	if len(d) == 0 {
		return errors.New("empty message in the backup")
	}
	switch d[0] {
	case 'd':
		b.rest = d[1:]
	case 'n':
		name, _, ok := strings.Cut(string(d[1:]), "\x00")
		if !ok {
			return errors.New("archive without a name in the backup")
		}
		b.next = part{'n', name}
	case 'm':
		b.next = part{'m', ManifestName}
	case 'p': // the server's own count, which is behind ours
		b.report(b.taker.bytes)
	default:
		return fmt.Errorf("message %q of %d bytes in the backup", d[0], len(d))
	}
	return nil
}

func (b *backup) report(received int64) {
	if b.progress != nil {
		b.progress(received, max(received, b.total))
	}
}

// receive bounds the server's silence while it copies.
func (b *backup) receive() (pgproto3.BackendMessage, error) {
	if now := time.Now(); b.copying && now.Sub(b.armed) > b.stall/8 {
		b.armed = now
		if err := b.pg.Conn().SetReadDeadline(now.Add(b.stall)); err != nil {
			return nil, err
		}
	}
	m, err := b.pg.Frontend().Receive()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, &tidegate.Error{Op: "receive", Subject: "backup", Class: tidegate.Transient, Err: fmt.Errorf("%w for %s", ErrSilent, b.stall)}
	}
	return m, err
}

// answers reads result sets until the copying begins or the command is over.
func (b *backup) answers() error {
	for {
		m, err := b.receive()
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *pgproto3.RowDescription:
			b.sets++
		case *pgproto3.DataRow:
			if err := b.row(fields(m.Values)); err != nil {
				return err
			}
		case *pgproto3.CopyOutResponse:
			b.copying = true
			return nil
		case *pgproto3.ReadyForQuery:
			return nil
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(m)
		case *pgproto3.CommandComplete, *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		default:
			return fmt.Errorf("message %T in the backup", m)
		}
	}
}

// row reads a row of the three result sets: where the backup starts, what it
// consists of, and, after the files, where it ends.
func (b *backup) row(v []field) (err error) {
	switch {
	case b.sets == 1 && len(v) >= 2:
		b.result.Start, b.result.StartTimeline, err = place(v)
	case b.sets == 2 && len(v) >= 3:
		kib, errSize := strconv.ParseInt(v[2].text, 10, 64)
		if errSize != nil {
			return fmt.Errorf("size of a tablespace: %w", errSize)
		}
		b.total += kib << 10
		if v[0].null {
			return nil // the data directory itself
		}
		oid, errOID := strconv.ParseUint(v[0].text, 10, 32)
		b.result.Tablespaces = append(b.result.Tablespaces, Tablespace{OID: uint32(oid), Location: v[1].text, Bytes: kib << 10})
		err = errOID
	case b.sets == 3 && len(v) >= 2:
		b.result.End, b.result.EndTimeline, err = place(v)
	default:
		err = fmt.Errorf("row of %d values in result set %d of the backup", len(v), b.sets)
	}
	return err
}

func place(v []field) (wal.LSN, wal.Timeline, error) {
	lsn, errLSN := wal.ParseLSN(v[0].text)
	t, errTimeline := wal.ParseTimeline(v[1].text)
	return lsn, t, errors.Join(errLSN, errTimeline)
}
