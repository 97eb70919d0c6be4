package config

import (
	"errors"
	"strings"
	"testing"
)

type outer struct {
	Name string  `yaml:"name"`
	Own  Section `yaml:"own"`
}

func (o outer) SetDefaults() outer { return o }
func (o outer) Validate() error    { return nil }

type inner struct {
	Slot string `yaml:"slot"`
	Size Bytes  `yaml:"size"`
}

func (i inner) SetDefaults() inner {
	if i.Size == 0 {
		i.Size = 7
	}
	return i
}

func (i inner) Validate() error {
	if i.Slot == "" {
		return Broken("slot", "want one", i.Slot)
	}
	return nil
}

func TestSectionIsReadByAnother(t *testing.T) {
	o, err := Parse[outer]("f", []byte("name: x\nown: {slot: s}\n"))
	if err != nil || o.Own.IsZero() {
		t.Fatalf("%v, %v", o, err)
	}
	i, err := ReadSection[inner](o.Own)
	if want := (inner{Slot: "s", Size: 7}); err != nil || i != want {
		t.Errorf("%+v, %v; want %+v", i, err, want)
	}
}

func TestSectionsMistakesHaveTheirPlaceInTheFile(t *testing.T) {
	o, err := Parse[outer]("f", []byte("name: x\nown:\n  slto: s\n"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = ReadSection[inner](o.Own)
	got := Refuse("f", errors.Join(err)).Error()
	for _, want := range []string{`own.slto (line 3): unknown key, did you mean "slot"?`, "own.slot: want one"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
	if Refuse("f", nil) != nil {
		t.Error("no mistake is refused")
	}
}

func TestAbsentSectionIsAllDefaults(t *testing.T) {
	o, err := Parse[outer]("f", []byte("name: x\nown:\n"))
	if err != nil || !o.Own.IsZero() {
		t.Fatalf("%v, %v", o, err)
	}
	if _, err := ReadSection[inner](o.Own); err == nil {
		t.Error("a missing slot is no mistake")
	}
}
