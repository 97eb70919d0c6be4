package archive

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/snapshot"
)

// Names and parts of names in a bucket; docs/formats/archive.md.
const (
	FormatName    = "tidegate.json" // object that says that, and how, the bucket is an archive
	StreamsPrefix = "streams/"      // all names begin with it, but FormatName and those of backups and drills

	streamFile    = "stream.json"
	archivistFile = "archivist.json"
	removedFile   = "removed.json"
	logDir        = "log/"
	scarsDir      = "scars/"
	basesDir      = "bases/"
	packsPart     = "packs/"
	manifestsPart = "bases/" // in a mirror, as in a store's directory
	segmentSuffix = ".seg"
	packSuffix    = ".pack"
	indexSuffix   = ".idx"
	baseSuffix    = ".base"
	scarSuffix    = ".json"

	idDigits    = 32 // of an id or a chain
	seqDigits   = 20 // decimal: names sort as their numbers do
	epochDigits = 16 // hex
	nameDigits  = 64 // of a manifest's name
	genDigits   = 8  // hex, of a generation
)

// StreamPrefix begins the names of all of a stream's objects.
func StreamPrefix(id tidegate.StreamID) string { return StreamsPrefix + id.String() + "/" }

// StreamName is the object that describes a stream; see [StreamInfo].
func StreamName(id tidegate.StreamID) string { return StreamPrefix(id) + streamFile }

// ArchivistName is the object that says which node uploads a stream; see [Archivist].
func ArchivistName(id tidegate.StreamID) string { return StreamPrefix(id) + archivistFile }

// RemovedName is the object that says what a rule has let go; see [Removed].
func RemovedName(id tidegate.StreamID) string { return StreamPrefix(id) + removedFile }

// ScarName says in a name which border of generations a [Scar] is of: by the first batch
// behind it.
type ScarName struct {
	Seq   tidegate.Seq
	Epoch tidegate.Epoch
}

// Name is the scar's object.
func (n ScarName) Name(id tidegate.StreamID) string {
	return StreamPrefix(id) + scarsDir + fmt.Sprintf("%s-%0*x%s", decimal(n.Seq), epochDigits, uint64(n.Epoch), scarSuffix)
}

func parseScarName(base string) (n ScarName, err error) {
	stem, ok := strings.CutSuffix(base, scarSuffix)
	seq, epoch, cut := strings.Cut(stem, "-")
	if !ok || !cut {
		return n, errNotOurs
	}
	if n.Seq, err = parseDecimal(seq); err != nil {
		return n, errNotOurs
	}
	e, err := parseHex(epoch, epochDigits)
	if n.Epoch = tidegate.Epoch(e); err != nil || n.Seq < 2 || n.Epoch < 2 { // another batch, and epoch, came before
		return n, errNotOurs
	}
	return n, nil
}

// LogPrefix begins the names of a stream's segments. They sort by their first seq.
func LogPrefix(id tidegate.StreamID) string { return StreamPrefix(id) + logDir }

// LogAfter sorts behind the names of all segments that begin before first, and
// before those of the others: where a listing begins.
func LogAfter(id tidegate.StreamID, first tidegate.Seq) string {
	return LogPrefix(id) + decimal(first)
}

// BasesPrefix begins the names of all mirrors of a stream.
func BasesPrefix(id tidegate.StreamID) string { return StreamPrefix(id) + basesDir }

// Segment is what a segment's name says: which batches it has, and the position of
// the log behind the last of them.
type Segment struct {
	First, Last tidegate.Seq // inclusive
	Epoch       tidegate.Epoch
	Chain       tidegate.Chain
}

// End is the position of the log behind the segment.
func (s Segment) End() tidegate.LogPos {
	return tidegate.LogPos{Epoch: s.Epoch, Seq: s.Last, Chain: s.Chain}
}

// Name is the segment's object.
func (s Segment) Name(id tidegate.StreamID) string {
	return LogPrefix(id) + s.base()
}

func (s Segment) base() string {
	return fmt.Sprintf("%s-%s-%0*x-%s%s", decimal(s.First), decimal(s.Last), epochDigits, uint64(s.Epoch), s.Chain, segmentSuffix)
}

func (s Segment) String() string { return fmt.Sprintf("%d-%d@%s", s.First, s.Last, s.Epoch) }

// check reports the rule that a name breaks.
func (s Segment) check() error {
	if s.First == 0 || s.Last < s.First || s.Epoch == 0 {
		return fmt.Errorf("segment %d to %d of epoch %s: want 1 <= first <= last and an epoch", s.First, s.Last, s.Epoch)
	}
	return nil
}

// Mirror is a node's base store in an archive. A node that lost its disk comes back
// as another incarnation, and its packs have other contents.
type Mirror struct {
	Node        tidegate.NodeName
	Incarnation tidegate.Incarnation
}

// Prefix begins the names of a mirror's objects. What follows it is the path in a
// base store's directory.
func (m Mirror) Prefix(id tidegate.StreamID) string {
	return BasesPrefix(id) + string(m.Node) + "-" + m.Incarnation.String() + "/"
}

// PackName is the object of a pack.
func (m Mirror) PackName(id tidegate.StreamID, number uint64) string {
	return m.Prefix(id) + fmt.Sprintf("%s%016x%s", packsPart, number, packSuffix)
}

// IndexName is the object of a pack's index.
func (m Mirror) IndexName(id tidegate.StreamID, number uint64) string {
	return m.Prefix(id) + fmt.Sprintf("%s%016x%s", packsPart, number, indexSuffix)
}

// ManifestName is the object of a base's manifest.
func (m Mirror) ManifestName(id tidegate.StreamID, b BaseName) string {
	return m.Prefix(id) + fmt.Sprintf("%s%0*x-%s%s", manifestsPart, genDigits, uint32(b.Generation), b.Name, baseSuffix)
}

// BaseName is what the name of a base's manifest says.
type BaseName struct {
	Generation tidegate.Generation
	Name       snapshot.Name // of the manifest
}

// Kind is what an object is.
type Kind uint8

// The kinds of objects.
const (
	KindFormat    Kind = iota + 1
	KindStream         // Stream
	KindArchivist      // Stream
	KindSegment        // Stream, Segment
	KindPack           // Stream, Mirror, Pack
	KindIndex          // Stream, Mirror, Pack
	KindBase           // Stream, Mirror, Base
	KindBackup         // Backup
	KindRemoved        // Stream
	KindDrill          // Drill
	KindScar           // Stream, Scar
)

// Entry is what an object's name says. Fields that its kind does not have are zero.
type Entry struct {
	Kind    Kind
	Stream  tidegate.StreamID
	Segment Segment
	Mirror  Mirror
	Pack    uint64 // number
	Base    BaseName
	Backup  Backup
	Drill   Drill
	Scar    ScarName
}

// Name is the object that Parse takes the entry from.
func (e Entry) Name() string {
	switch e.Kind {
	case KindFormat:
		return FormatName
	case KindStream:
		return StreamName(e.Stream)
	case KindArchivist:
		return ArchivistName(e.Stream)
	case KindSegment:
		return e.Segment.Name(e.Stream)
	case KindPack:
		return e.Mirror.PackName(e.Stream, e.Pack)
	case KindIndex:
		return e.Mirror.IndexName(e.Stream, e.Pack)
	case KindBase:
		return e.Mirror.ManifestName(e.Stream, e.Base)
	case KindBackup:
		return e.Backup.Name()
	case KindRemoved:
		return RemovedName(e.Stream)
	case KindDrill:
		return e.Drill.Name()
	case KindScar:
		return e.Scar.Name(e.Stream)
	}
	return ""
}

// Parse takes an object's name apart. It accepts exactly the names that are made
// here: any other object is not the archive's, and its error says why.
func Parse(name string) (Entry, error) {
	e, err := parse(name)
	if err == nil && e.Name() != name {
		err = fmt.Errorf("want %q", e.Name())
	}
	if err != nil {
		return Entry{}, fmt.Errorf("object %q: %w", name, err)
	}
	return e, nil
}

// ParseSegment is [Parse] for names that should be a stream's segments.
func ParseSegment(id tidegate.StreamID, name string) (Segment, error) {
	e, err := Parse(name)
	if err == nil && (e.Kind != KindSegment || e.Stream != id) {
		err = fmt.Errorf("object %q: want a segment of stream %s", name, id)
	}
	return e.Segment, err
}

func parse(name string) (e Entry, err error) {
	if name == FormatName {
		return Entry{Kind: KindFormat}, nil
	}
	if rest, ok := strings.CutPrefix(name, RegistryPrefix); ok {
		e.Kind = KindBackup
		e.Backup, err = parseBackup(rest)
		return e, err
	}
	if rest, ok := strings.CutPrefix(name, DrillsPrefix); ok {
		e.Kind = KindDrill
		e.Drill, err = parseDrill(rest)
		return e, err
	}
	rest, ok := strings.CutPrefix(name, StreamsPrefix)
	id, rest, cut := strings.Cut(rest, "/")
	if !ok || !cut {
		return e, errNotOurs
	}
	if e.Stream, err = tidegate.ParseID(id); err != nil {
		return e, err
	}
	switch {
	case rest == streamFile:
		e.Kind = KindStream
	case rest == archivistFile:
		e.Kind = KindArchivist
	case rest == removedFile:
		e.Kind = KindRemoved
	case strings.HasPrefix(rest, scarsDir):
		e.Kind = KindScar
		e.Scar, err = parseScarName(rest[len(scarsDir):])
	case strings.HasPrefix(rest, logDir):
		e.Kind = KindSegment
		e.Segment, err = parseSegment(rest[len(logDir):])
	case strings.HasPrefix(rest, basesDir):
		err = e.parseMirrored(rest[len(basesDir):])
	default:
		err = errNotOurs
	}
	return e, err
}

// errNotOurs says of a name that it is none of an archive's.
var errNotOurs = fmt.Errorf("not the name of an archive's object: %w", tidegate.ErrUnsupported)

func parseSegment(base string) (s Segment, err error) {
	stem, ok := strings.CutSuffix(base, segmentSuffix)
	parts := strings.Split(stem, "-")
	if !ok || len(parts) != 4 {
		return s, errNotOurs
	}
	first, err1 := parseDecimal(parts[0])
	last, err2 := parseDecimal(parts[1])
	epoch, err3 := parseHex(parts[2], epochDigits)
	if err1 != nil || err2 != nil || err3 != nil {
		return s, errNotOurs
	}
	s = Segment{First: first, Last: last, Epoch: tidegate.Epoch(epoch)}
	if err := parseBytes(parts[3], s.Chain[:]); err != nil {
		return s, err
	}
	return s, s.check()
}

// parseMirrored takes apart what follows the prefix of a stream's mirrors.
func (e *Entry) parseMirrored(rest string) (err error) {
	store, file, ok := strings.Cut(rest, "/")
	dash := len(store) - idDigits - 1
	if !ok || dash < 1 || store[dash] != '-' {
		return errNotOurs
	}
	e.Mirror.Node = tidegate.NodeName(store[:dash])
	if err := tidegate.ValidName(store[:dash]); err != nil {
		return err
	}
	if e.Mirror.Incarnation, err = tidegate.ParseID(store[dash+1:]); err != nil {
		return err
	}
	if base, ok := strings.CutPrefix(file, manifestsPart); ok {
		e.Kind = KindBase
		return e.Base.parse(base)
	}
	pack, ok := strings.CutPrefix(file, packsPart)
	if !ok {
		return errNotOurs
	}
	e.Kind = KindPack
	stem, ok := strings.CutSuffix(pack, packSuffix)
	if !ok {
		e.Kind = KindIndex
		stem, ok = strings.CutSuffix(pack, indexSuffix)
	}
	if !ok {
		return errNotOurs
	}
	e.Pack, err = parseHex(stem, 16)
	return err
}

func (b *BaseName) parse(file string) error {
	stem, ok := strings.CutSuffix(file, baseSuffix)
	if !ok || len(stem) != genDigits+1+nameDigits || stem[genDigits] != '-' {
		return errNotOurs
	}
	g, err := parseHex(stem[:genDigits], genDigits)
	if err != nil {
		return err
	}
	b.Generation = tidegate.Generation(g)
	return parseBytes(stem[genDigits+1:], b.Name[:])
}

func decimal(seq tidegate.Seq) string { return fmt.Sprintf("%0*d", seqDigits, uint64(seq)) }

func parseDecimal(s string) (tidegate.Seq, error) {
	if len(s) != seqDigits {
		return 0, errNotOurs
	}
	v, err := strconv.ParseUint(s, 10, 64)
	return tidegate.Seq(v), err
}

func parseHex(s string, digits int) (uint64, error) {
	if len(s) != digits {
		return 0, errNotOurs
	}
	return strconv.ParseUint(s, 16, 64)
}

// parseBytes fills dst from hex digits.
func parseBytes(s string, dst []byte) error {
	if len(s) != hex.EncodedLen(len(dst)) {
		return errNotOurs
	}
	_, err := hex.Decode(dst, []byte(s))
	return err
}
