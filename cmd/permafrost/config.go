package main

import (
	"io"
	"os"
	"path/filepath"

	"github.com/alecthomas/kong"
)

// configFiles are read in this order, later ones outweighing earlier ones.
func configFiles() []string {
	files := []string{"/etc/permafrost/config.json"}
	if dir, err := os.UserConfigDir(); err == nil {
		files = append(files, filepath.Join(dir, "permafrost", "config.json"))
	}
	return files
}

// configLoader reads JSON whose keys are flag names ("commit-interval": "1s"),
// or objects of them by verb. kong lets a file outweigh the environment; here
// a flag outweighs the environment and the environment outweighs a file, so a
// flag whose variable is set is left alone.
func configLoader(r io.Reader) (kong.Resolver, error) {
	inner, err := kong.JSON(r)
	if err != nil {
		return nil, err
	}
	return kong.ResolverFunc(func(ctx *kong.Context, parent *kong.Path, flag *kong.Flag) (any, error) {
		for _, name := range flag.Envs {
			if _, set := os.LookupEnv(name); set {
				return nil, nil
			}
		}
		return inner.Resolve(ctx, parent, flag)
	}), nil
}

// defaultSockets is where an appliance listens and where clients look, in
// order. It is a fixed list so that cron and people agree; see rest.md.
func defaultSockets() []string {
	return []string{"/run/permafrost/permafrost.sock", filepath.Join(defaultStateDir(), "permafrost.sock")}
}

// defaultStateDir follows the XDG base directory rules; root's appliance keeps
// its state where the system's daemons do.
func defaultStateDir() string {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "permafrost")
	}
	if os.Geteuid() == 0 {
		return "/var/lib/permafrost"
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "/var/lib/permafrost"
	}
	return filepath.Join(home, ".local", "state", "permafrost")
}

// defaultImage is the image served when --pmem is not given.
func defaultImage() string {
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "permafrost", "fs.pmem")
	}
	if os.Geteuid() == 0 {
		return "/var/lib/permafrost/fs.pmem"
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "/var/lib/permafrost/fs.pmem"
	}
	return filepath.Join(home, ".local", "share", "permafrost", "fs.pmem")
}
