package replication

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"unicode/utf8"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// ManifestBytesMax bounds a backup's manifest, which takes about 150 bytes a file.
const ManifestBytesMax = 1 << 30

// Manifest is a server's own list of a base backup ("Backup Manifest Format" of
// PostgreSQL's manual, versions 1 and 2).
type Manifest struct {
	Files  []ManifestFile
	Ranges []ManifestRange // of log that a restore needs
}

// ManifestFile is one file of a backup.
type ManifestFile struct {
	Path   string
	Size   int64
	CRC32C uint32
}

// ManifestRange is log of one timeline.
type ManifestRange struct {
	Timeline wal.Timeline
	Start    wal.LSN
	End      wal.LSN // exclusive
}

// ParseManifest reads a manifest with CRC-32C checksums and verifies its own. What
// is wrong with it is a *tidegate.CorruptError.
func ParseManifest(b []byte) (*Manifest, error) {
	m, err := parseManifest(b)
	if err != nil {
		return nil, &tidegate.CorruptError{Path: ManifestName, Offset: -1, What: err.Error()}
	}
	return m, nil
}

func parseManifest(b []byte) (*Manifest, error) {
	var doc struct {
		Version int `json:"PostgreSQL-Backup-Manifest-Version"`
		Files   []struct {
			Path      *string `json:"Path"`
			Encoded   *string `json:"Encoded-Path"` // hexadecimal, for names that are not UTF-8
			Size      int64   `json:"Size"`
			Algorithm string  `json:"Checksum-Algorithm"`
			Checksum  string  `json:"Checksum"`
		} `json:"Files"`
		Ranges []struct {
			Timeline uint32 `json:"Timeline"`
			Start    string `json:"Start-LSN"`
			End      string `json:"End-LSN"`
		} `json:"WAL-Ranges"`
		Checksum string `json:"Manifest-Checksum"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, err
	}
	if doc.Version != 1 && doc.Version != 2 {
		return nil, fmt.Errorf("version %d: want 1 or 2", doc.Version)
	}
	// The checksum is over all lines before its own.
	at := bytes.LastIndex(b, []byte("\n\"Manifest-Checksum\""))
	if at < 0 {
		return nil, errors.New("no checksum on a line of its own")
	}
	if got := sha256.Sum256(b[:at+1]); hex.EncodeToString(got[:]) != doc.Checksum {
		return nil, fmt.Errorf("checksum mismatch (want %s, got %x)", doc.Checksum, got)
	}
	m := &Manifest{}
	for i, f := range doc.Files {
		one, err := manifestFile(f.Path, f.Encoded, f.Algorithm, f.Checksum)
		if err != nil {
			return nil, fmt.Errorf("file %d: %w", i, err)
		}
		one.Size = f.Size
		m.Files = append(m.Files, one)
	}
	for _, r := range doc.Ranges {
		start, errStart := wal.ParseLSN(r.Start)
		end, errEnd := wal.ParseLSN(r.End)
		if err := errors.Join(errStart, errEnd); err != nil {
			return nil, err
		}
		m.Ranges = append(m.Ranges, ManifestRange{Timeline: wal.Timeline(r.Timeline), Start: start, End: end})
	}
	return m, nil
}

func manifestFile(plain, encoded *string, algorithm, checksum string) (f ManifestFile, err error) {
	switch {
	case plain != nil && encoded == nil && utf8.ValidString(*plain):
		f.Path = *plain
	case plain == nil && encoded != nil:
		raw, err := hex.DecodeString(*encoded)
		if err != nil {
			return f, fmt.Errorf("path %q: %w", *encoded, err)
		}
		f.Path = string(raw)
	default:
		return f, errors.New("want a path, plain or encoded")
	}
	if algorithm != "CRC32C" {
		return f, fmt.Errorf("%q: checksum algorithm %q: want CRC32C", f.Path, algorithm)
	}
	crc, err := strconv.ParseUint(checksum, 16, 32)
	if err != nil || len(checksum) != 8 {
		return f, fmt.Errorf("%q: checksum %q: want 8 hexadecimal digits", f.Path, checksum)
	}
	// The server prints the number's bytes in the order of its memory.
	f.CRC32C = bits.ReverseBytes32(uint32(crc))
	return f, nil
}

// compare reports the first difference between the manifest and what came.
func (m *Manifest) compare(seen map[string]sum, b Backup) error {
	corrupt := func(name, format string, args ...any) error {
		return &tidegate.CorruptError{Path: name, Offset: -1, What: fmt.Sprintf(format, args...)}
	}
	listed := make(map[string]bool, len(m.Files))
	for _, f := range m.Files {
		got, ok := seen[f.Path]
		switch {
		case listed[f.Path]:
			return corrupt(f.Path, "listed twice in the server's manifest")
		case !ok:
			return corrupt(f.Path, "listed in the server's manifest and not sent")
		case got.size != f.Size:
			return corrupt(f.Path, "size mismatch (want %d, got %d)", f.Size, got.size)
		case got.crc != f.CRC32C:
			return corrupt(f.Path, "checksum mismatch (want %08x, got %08x)", f.CRC32C, got.crc)
		}
		listed[f.Path] = true
	}
	for name := range seen {
		if !listed[name] {
			return corrupt(name, "sent and not listed in the server's manifest")
		}
	}
	if len(m.Ranges) == 0 {
		return corrupt(ManifestName, "no range of log")
	}
	for _, r := range m.Ranges {
		if r.Timeline == b.EndTimeline && r.End != b.End {
			return corrupt(ManifestName, "log ends at %s, the backup at %s", r.End, b.End)
		}
	}
	return nil
}
