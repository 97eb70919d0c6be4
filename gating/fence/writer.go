package fence

import "github.com/tidegate/tidegate"

// Writer is the holder's part of one stream in one epoch.
type Writer struct{ rec EpochRecord }

// NewWriter starts the writer of an ACTIVE record that names self.
func NewWriter(self Holder, rec EpochRecord) (*Writer, error) { return &Writer{rec: rec}, nil }

// Sealed tells that the batch at pos was sealed and may be shipped. Seqs are
// contiguous from the record's StartSeq.
func (w *Writer) Sealed(pos tidegate.LogPos) error { return nil }

// OnAck takes a node's statement, direct or relayed, in any order, repeated or
// not. Compare Durable before and after to see D advance. The returned slice is
// valid until the next call.
func (w *Writer) OnAck(a Ack) []WriterEffect { return nil }

// OnRecord takes a change of the stream's record.
func (w *Writer) OnRecord(rec EpochRecord) []WriterEffect { return nil }

// OnRefused takes a node's refusal that named its promise.
func (w *Writer) OnRefused(p Promise) []WriterEffect { return nil }

// Start returns the first DialRelay.
func (w *Writer) Start() []WriterEffect { return nil }

// RelayUp tells that the session with the dialled node is attached; received
// and durable are what the node said of its log.
func (w *Writer) RelayUp(m Member, received, durable tidegate.LogPos) []WriterEffect { return nil }

// RelayDown tells that dialling or the session failed.
func (w *Writer) RelayDown(node tidegate.NodeName, err error) []WriterEffect { return nil }

// Durable returns D: the highest seq fsynced by W members of the record that
// adopted the epoch. It never falls.
func (w *Writer) Durable() tidegate.Seq { return 0 }

// End returns the last sealed batch.
func (w *Writer) End() tidegate.LogPos { return tidegate.LogPos{} }

// Floor returns the lowest seq that must stay in the ring.
func (w *Writer) Floor() tidegate.Seq { return 0 }

// Fenced returns the promise that ended this writer; ok is false while it may write.
func (w *Writer) Fenced() (by Promise, ok bool) { return Promise{}, false }
