package walsender

import (
	"errors"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Object ids of the two types that rows here have.
const (
	oidInt8 = 20
	oidText = 25
)

// column is a name and its only value.
type column struct {
	name  string
	oid   uint32
	value []byte // nil: NULL
}

func text(name, value string) column   { return column{name, oidText, []byte(value)} }
func number(name, value string) column { return column{name, oidInt8, []byte(value)} }
func null(name string) column          { return column{name, oidText, nil} }

// row sends a result set of one row, its CommandComplete not included.
func (c *session) row(columns ...column) {
	var fields []pgproto3.FieldDescription
	var values [][]byte
	for _, col := range columns {
		size := int16(-1)
		if col.oid == oidInt8 {
			size = 8
		}
		fields = append(fields, pgproto3.FieldDescription{Name: []byte(col.name), DataTypeOID: col.oid, DataTypeSize: size, TypeModifier: -1})
		values = append(values, col.value)
	}
	c.be.Send(&pgproto3.RowDescription{Fields: fields})
	c.be.Send(&pgproto3.DataRow{Values: values})
}

// done ends a command that went well.
func (c *session) done(v verb) error {
	c.be.Send(&pgproto3.CommandComplete{CommandTag: []byte(v)})
	return c.idle()
}

// idle says that the next command may come, and flushes.
func (c *session) idle() error {
	c.be.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	return c.be.Flush()
}

// refuse ends a command that was refused; the session goes on.
func (c *session) refuse(r *refusal) error {
	c.noteRefusal(r)
	c.be.Send(r.response("ERROR"))
	return c.idle()
}

// fatal tells the receiver why its session ends, and returns the cause.
func (c *session) fatal(r *refusal, cause error) error {
	c.noteRefusal(r)
	c.be.Send(r.response("FATAL"))
	return errors.Join(cause, c.be.Flush())
}

// noteRefusal logs a refusal that is not a repetition of the last: a receiver
// that was refused asks again every few seconds, for ever.
func (c *session) noteRefusal(r *refusal) {
	note := c.application + ": " + r.message
	c.srv.mu.Lock()
	repeated := c.srv.refused == note
	c.srv.refused = note
	c.srv.mu.Unlock()
	if !repeated {
		c.log.Warn("receiver refused", "code", r.code, "reason", r.message)
	}
}
