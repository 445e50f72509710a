package main

import (
	"os"
	"path/filepath"
)

// configFiles are read in this order, later ones outweighing earlier ones.
func configFiles() []string {
	files := []string{"/etc/permafrost/config.json"}
	if dir, err := os.UserConfigDir(); err == nil {
		files = append(files, filepath.Join(dir, "permafrost", "config.json"))
	}
	return files
}

// defaultSockets is where an appliance listens and where clients look, in
// order. It is a fixed list so that cron and people agree; see rest.md.
func defaultSockets() []string {
	return []string{"/run/permafrost/permafrost.sock", filepath.Join(defaultStateDir(), "permafrost.sock")}
}

// cronSockets are the places of defaultSockets for whoever does not share this
// process's environment, as cron does not.
func cronSockets() []string {
	return []string{"/run/permafrost/permafrost.sock", filepath.Join(homeStateDir(), "permafrost.sock")}
}

// defaultStateDir follows the XDG base directory rules; root's appliance keeps
// its state where the system's daemons do.
func defaultStateDir() string {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "permafrost")
	}
	return homeStateDir()
}

// homeStateDir is the state directory without XDG_STATE_HOME.
func homeStateDir() string {
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
