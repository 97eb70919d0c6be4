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

// OutputFlag is the flag of every reading command.
func OutputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "`FORMAT` of the result: text or json"}
}

// Print writes a command's result to its stdout: v as indented JSON when the
// operator asked for it, else whatever text writes.
func Print(c *cli.Context, v any, text func(w io.Writer) error) error {
	switch format := c.String("output"); format {
	case "text", "":
		return text(c.App.Writer)
	case "json":
		return writeJSON(c.App.Writer, v)
	default:
		return Usagef("unknown output format %q: want text or json", format)
	}
}

func writeJSON(w io.Writer, v any) error {
	msg, ok := v.(proto.Message)
	if !ok {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	}
	raw, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(msg)
	if err != nil {
		return err
	}
	// protojson varies its spaces on purpose; scripts and tests want one form.
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
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
