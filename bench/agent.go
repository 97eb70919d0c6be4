package main

import (
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
)

// program is the agent's file.
type program struct {
	Bytes    int64 `json:"bytes"`
	Stripped bool  `json:"stripped"`
}

func agentSize(bin string) (b program, err error) {
	name := filepath.Join(bin, "tidegate-agent")
	info, err := os.Stat(name)
	if err != nil {
		return b, err
	}
	f, err := elf.Open(name)
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return program{Bytes: info.Size(), Stripped: f.Section(".symtab") == nil}, nil
}
