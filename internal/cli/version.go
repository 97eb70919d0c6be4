package cli

import "runtime/debug"

// version is stamped by the linker: -X .../internal/cli.version=v1.2.3.
var version string

// Version names the build: the linker's stamp, else what the module system
// knows, else "unstamped".
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "unstamped"
}
