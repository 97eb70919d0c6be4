package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// walker decodes a YAML tree into a Go value and collects every mistake with
// its path. The yaml package's own strict mode stops knowing paths after the
// first level and names Go types where an operator wants keys.
type walker struct {
	mistakes Mistakes
}

func (w *walker) add(path string, line int, format string, args ...any) {
	w.mistakes = append(w.mistakes, Mistake{Path: path, Line: line, Rule: fmt.Sprintf(format, args...)})
}

var (
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
	durationType = reflect.TypeFor[time.Duration]()
)

func (w *walker) value(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		w.add(path, n.Line, "anchors and aliases are not used here: write the value")
		return
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	if v.Type() == sectionType {
		v.Set(reflect.ValueOf(Section{path: path, node: n}))
		return
	}
	if reflect.PointerTo(v.Type()).Implements(textType) {
		w.text(n, v, path)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		w.structure(n, v, path)
	case reflect.Slice:
		w.list(n, v, path)
	case reflect.Map:
		w.mapping(n, v, path)
	default:
		w.scalar(n, v, path)
	}
}

func (w *walker) text(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		w.add(path, n.Line, "want a single value (got %s)", kindName(n))
		return
	}
	if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(n.Value)); err != nil {
		w.add(path, n.Line, "%s", err)
	}
}

func (w *walker) structure(n *yaml.Node, v reflect.Value, path string) {
	fields := fieldsOf(v.Type())
	w.pairs(n, path, func(key, val *yaml.Node, at string) {
		index, ok := fields[key.Value]
		if !ok {
			w.add(at, key.Line, "unknown key%s", nearest(key.Value, fields))
			return
		}
		w.value(val, v.FieldByIndex(index), at)
	})
}

func (w *walker) mapping(n *yaml.Node, v reflect.Value, path string) {
	v.Set(reflect.MakeMap(v.Type()))
	w.pairs(n, path, func(key, val *yaml.Node, at string) {
		elem := reflect.New(v.Type().Elem()).Elem()
		w.value(val, elem, at)
		v.SetMapIndex(reflect.ValueOf(key.Value).Convert(v.Type().Key()), elem)
	})
}

func (w *walker) pairs(n *yaml.Node, path string, each func(key, val *yaml.Node, at string)) {
	if isNull(n) {
		return // "tls:" with nothing under it is the struct's zero value
	}
	if n.Kind != yaml.MappingNode {
		w.add(path, n.Line, "want keys and values (got %s)", kindName(n))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		at := key.Value
		if path != "" {
			at = path + "." + key.Value
		}
		if first, dup := seen[key.Value]; dup {
			w.add(at, key.Line, "duplicate key, first on line %d", first)
			continue
		}
		seen[key.Value] = key.Line
		each(key, val, at)
	}
}

func (w *walker) list(n *yaml.Node, v reflect.Value, path string) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.SequenceNode {
		w.add(path, n.Line, "want a list (got %s)", kindName(n))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		w.value(item, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
}

func (w *walker) scalar(n *yaml.Node, v reflect.Value, path string) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.ScalarNode {
		w.add(path, n.Line, "want a single value (got %s)", kindName(n))
		return
	}
	if v.Kind() == reflect.String && n.Tag != "!!str" {
		// A bare 010, yes or 1.50 stays the text that was written.
		v.SetString(n.Value)
		return
	}
	if err := n.Decode(v.Addr().Interface()); err != nil {
		w.add(path, n.Line, "want %s (got %q)", wanted(v.Type()), n.Value)
	}
}

func wanted(t reflect.Type) string {
	if t == durationType {
		return "a duration such as 250ms, 2s or 1h"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number, not negative"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Float32, reflect.Float64:
		return "a number"
	}
	return "text"
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	}
	return fmt.Sprintf("%q", n.Value)
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// fieldsOf maps keys to fields, those of an inlined struct's own among them. Every
// exported field needs a yaml tag: a file's keys are a promise and never follow from a
// Go name.
func fieldsOf(t reflect.Type) map[string][]int {
	fields := map[string][]int{}
	for i := range t.NumField() {
		name, option, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		switch {
		case name == "" && option == "inline":
			for key, index := range fieldsOf(t.Field(i).Type) {
				fields[key] = append([]int{i}, index...)
			}
		case name != "" && name != "-":
			fields[name] = []int{i}
		}
	}
	return fields
}

// nearest offers the known key that a typing mistake most likely meant.
func nearest(key string, fields map[string][]int) string {
	best, bestAway := "", 3
	for known := range fields {
		if away := distance(key, known); away < bestAway || away == bestAway && known < best {
			best, bestAway = known, away
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(", did you mean %q?", best)
}

// distance is the number of inserted, removed or changed bytes between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
