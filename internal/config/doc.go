// Package config reads a role's YAML file in three separate steps: decode
// strictly, set defaults, validate.
//
// Promise: every mistake of a file is reported at once, each with the path of
// its key and, where the file has one, its line. Unknown and duplicate keys are
// mistakes. Nothing else feeds a configuration: no environment variable and no
// second file overrides what is written.
//
// # Words
//
//   - file:    the struct that a role's YAML decodes into; it belongs to cmd/
//   - mistake: one broken rule, at one path
//
// # Picture
//
//	agent.yaml -> [Parse] -> File -> SetDefaults -> Validate -> File or [Mistakes]
//
// The functions keep no state and may be called concurrently.
package config
