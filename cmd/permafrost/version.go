package main

import (
	"runtime"
	"runtime/debug"
)

// release is set by the linker for released builds.
var release = "dev"

// version names the build: the release, or the revision it was made from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || release != "dev" {
		return release
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "dev-" + s.Value[:12]
		}
	}
	return release
}

type versionCmd struct{}

func (versionCmd) Run(c *console) error {
	c.printf("permafrost %s %s %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}
