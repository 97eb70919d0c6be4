package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tidegate/tidegate"
)

// FileBytesMax bounds a configuration file, in bytes: a wrong path (a device, a
// log) is refused before it fills the memory.
const FileBytesMax = 1 << 20

// Defaulter is what a file's struct must offer. SetDefaults returns a copy in
// which every unset key has its default and reports nothing; Validate returns
// [errors.Join] of every broken rule, each made by [Broken].
type Defaulter[F any] interface {
	SetDefaults() F
	Validate() error
}

// Load reads the file at path; see [Parse].
func Load[F Defaulter[F]](path string) (F, error) {
	return LoadWith(path, func(F) error { return nil })
}

// LoadWith is [Load] where others read sections of the file: what they find wrong,
// by [ReadSection], is reported together with the file's own mistakes. sections is
// called once, also with a file that has some, if it could be read at all.
func LoadWith[F Defaulter[F]](path string, sections func(F) error) (F, error) {
	var zero F
	data, err := readFile(path)
	if err != nil {
		return zero, err
	}
	return parse(path, data, sections)
}

// Parse decodes data, sets defaults and validates. name is only for messages.
// The error is a *[tidegate.Error] of class misuse around [Mistakes].
func Parse[F Defaulter[F]](name string, data []byte) (F, error) {
	return parse(name, data, func(F) error { return nil })
}

func parse[F Defaulter[F]](name string, data []byte, sections func(F) error) (F, error) {
	var file, zero F
	mistakes := decode(data, &file)
	file = file.SetDefaults()
	mistakes = append(mistakes, without(flatten(file.Validate()), mistakes)...)
	mistakes = append(mistakes, without(flatten(sections(file)), mistakes)...)
	if len(mistakes) > 0 {
		return zero, refusal(name, mistakes)
	}
	return file, nil
}

func refusal(name string, mistakes Mistakes) error {
	return &tidegate.Error{
		Op: "read configuration", Subject: name, Class: tidegate.Misuse, Err: mistakes,
		Hint: "every key is explained in the sample file of the same name",
	}
}

// Mistakes is every broken rule of one file, in the order found.
type Mistakes []Mistake

// Error has one mistake a line.
func (m Mistakes) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d mistake", len(m))
	if len(m) != 1 {
		b.WriteByte('s')
	}
	for _, one := range m {
		b.WriteString("\n  ")
		b.WriteString(one.Error())
	}
	return b.String()
}

// Mistake is one broken rule.
type Mistake struct {
	Path string `json:"path"`           // dotted keys, "streams[1].name"; "" is the file itself
	Line int    `json:"line,omitempty"` // in the file, from 1; 0 when the key is absent
	Rule string `json:"rule"`           // what is wanted, and what was got
}

func (m Mistake) Error() string {
	var b strings.Builder
	b.WriteString(m.Path)
	if m.Line > 0 {
		if m.Path != "" {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "(line %d)", m.Line)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(m.Rule)
	return b.String()
}

// Broken is a mistake found by a Validate method: rule says what is wanted, got
// is what the file has.
func Broken(path, rule string, got any) error {
	return Mistake{Path: path, Rule: fmt.Sprintf("%s (got %s)", rule, show(got))}
}

// Under prefixes the path of every mistake in err, so that a nested struct can
// validate itself without knowing where it stands. A nil err stays nil.
func Under(path string, err error) error {
	var all []error
	for _, m := range flatten(err) {
		switch {
		case m.Path == "":
			m.Path = path
		case strings.HasPrefix(m.Path, "["):
			m.Path = path + m.Path
		default:
			m.Path = path + "." + m.Path
		}
		all = append(all, m)
	}
	return errors.Join(all...)
}

func show(got any) string {
	v := reflect.ValueOf(got)
	switch v.Kind() {
	case reflect.Invalid:
		return "nothing"
	case reflect.Slice, reflect.Map:
		if v.Len() == 0 {
			return "nothing"
		}
	case reflect.String:
		if v.Len() == 0 {
			return "nothing"
		}
		return fmt.Sprintf("%q", v.String())
	}
	return fmt.Sprint(got)
}

func flatten(err error) Mistakes {
	switch e := err.(type) { //nolint:errorlint // the tree is walked here, wrapper by wrapper
	case nil:
		return nil
	case Mistake:
		return Mistakes{e}
	case Mistakes:
		return e
	case interface{ Unwrap() []error }:
		var all Mistakes
		for _, one := range e.Unwrap() {
			all = append(all, flatten(one)...)
		}
		return all
	}
	return Mistakes{{Rule: err.Error()}}
}

// without drops the mistakes at or below paths that known already names: a
// value that could not be decoded is zero, and a rule broken by that zero is noise.
func without(m, known Mistakes) Mistakes {
	return slices.DeleteFunc(slices.Clone(m), func(one Mistake) bool {
		return slices.ContainsFunc(known, func(k Mistake) bool {
			rest, below := strings.CutPrefix(one.Path, k.Path)
			return below && (k.Path == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
		})
	})
}

func readFile(path string) (data []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &tidegate.Error{
			Op: "read configuration", Subject: path, Class: tidegate.Misuse, Err: unwrapPath(err),
			Hint: "give the file with --config",
		}
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err = io.ReadAll(io.LimitReader(f, FileBytesMax+1))
	if err == nil && len(data) > FileBytesMax {
		err = fmt.Errorf("larger than %d bytes", FileBytesMax)
	}
	if err != nil {
		return nil, &tidegate.Error{Op: "read configuration", Subject: path, Class: tidegate.Misuse, Err: unwrapPath(err)}
	}
	return data, nil
}

// unwrapPath drops the path that the os package puts in front: the subject has it.
func unwrapPath(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

func decode(data []byte, to any) Mistakes {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return Mistakes{{Rule: "the file is empty"}}
	} else if err != nil {
		return Mistakes{{Rule: strings.TrimPrefix(err.Error(), "yaml: ")}}
	}
	var w walker
	if err := dec.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		w.add("", 0, "want one document, the file has several")
	}
	w.value(doc.Content[0], reflect.ValueOf(to).Elem(), "")
	return w.mistakes
}
