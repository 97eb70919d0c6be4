package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// OutputFlag is the flag of every reading command. A format that does not exist
// is refused before the command does anything: some of them also write.
func OutputFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "`FORMAT` of the result: text or json",
		Action: func(_ *cli.Context, format string) error {
			if format != "text" && format != "json" {
				return Usagef("unknown output format %q: want text or json", format)
			}
			return nil
		},
	}
}

// WantsJSON reports whether the operator asked for JSON.
func WantsJSON(c *cli.Context) bool { return c.String("output") == "json" }

// Print writes a command's result to its stdout: v as indented JSON when the
// operator asked for it, else whatever text writes.
func Print(c *cli.Context, v any, text func(w io.Writer) error) error {
	if WantsJSON(c) {
		return writeJSON(c.App.Writer, v)
	}
	return text(c.App.Writer)
}

func writeJSON(w io.Writer, v any) error {
	msg, ok := v.(proto.Message)
	if !ok {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	}
	return writeMessage(w, msg, func(b *bytes.Buffer, raw []byte) error { return json.Indent(b, raw, "", "  ") })
}

// PrintEvent writes one event of a command that goes on as a line of JSON.
func PrintEvent(w io.Writer, event proto.Message) error { return writeMessage(w, event, json.Compact) }

// writeMessage writes msg with every field that is known, in the given layout:
// protojson varies its spaces on purpose; scripts and tests want one form.
func writeMessage(w io.Writer, msg proto.Message, layout func(*bytes.Buffer, []byte) error) error {
	raw, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(msg)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := layout(&b, raw); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err = b.WriteTo(w)
	return err
}

// Table is rows under a head, aligned by columns when written.
type Table struct {
	head []string
	rows [][]string
}

// NewTable makes an empty table with the given column names.
func NewTable(head ...string) *Table { return &Table{head: head} }

// Row appends a row; an empty cell is shown as "-".
func (t *Table) Row(cells ...string) {
	for i, cell := range cells {
		if cell == "" {
			cells[i] = "-"
		}
	}
	t.rows = append(t.rows, cells)
}

// WriteTo writes head and rows; a table without rows writes nothing.
func (t *Table) WriteTo(w io.Writer) (int64, error) {
	if len(t.rows) == 0 {
		return 0, nil
	}
	var b bytes.Buffer
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, strings.ToUpper(strings.Join(t.head, "\t")))
	for _, row := range t.rows {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	if err := tw.Flush(); err != nil {
		return 0, err
	}
	return b.WriteTo(w)
}
