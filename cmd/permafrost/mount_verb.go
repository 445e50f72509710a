package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"permafrost/mount"
)

// mountCmd serves one image with a mount, as mount(8) expects: in the background,
// and until it is unmounted.
type mountCmd struct {
	Image        string   `arg:"" help:"The pmem file. Left out, it is the one that serve takes: then this is the directory."`
	Dir          string   `arg:"" optional:"" help:"The empty directory to mount at."`
	MountOptions []string `name:"mount-options" short:"o" help:"As for mount(8): ro, private, uid=, noexec, ...; and of the server: state=DIR, listen=ADDR, socket=PATH, lease_max=, attach_uid=, create=SIZE." placeholder:"OPTIONS"`
	Foreground   bool     `short:"f" env:"-" help:"Stay in the foreground: for a supervisor."`
}

// Run returns when the mount is usable.
func (m *mountCmd) Run(c *console) error {
	image, dir := m.Image, m.Dir
	if dir == "" {
		image, dir = defaultImage(), m.Image
	}
	p, err := planMount(image, dir, m.MountOptions)
	if err != nil {
		return err
	}
	if m.Foreground {
		return p.exec()
	}
	d, err := p.background()
	if err != nil {
		return err
	}
	c.printf("%s is mounted at %s\n", p.image, p.dir)
	c.printf("  server       %d, until \"umount %s\"; its log is %s\n", d.pid, p.dir, p.log)
	c.printf("  REST         %s\n", strings.Join(d.addresses, "  and  "))
	return nil
}

// mountPlan is a server to be started for one mount. Immutable.
type mountPlan struct {
	image, dir string   // absolute
	state, log string   // absolute
	args       []string // of serve
}

// serverOptions are those options of -o that are flags of serve.
var serverOptions = map[string]string{"state": "--state", "listen": "--listen", "socket": "--socket", "lease_max": "--lease-max",
	"attach_uid": "--attach-uid", "create": "--create"} // immutable

// planMount works out where everything of a mount is. Each image but the default one has
// a state directory and sockets of its own, so that several may be in /etc/fstab.
func planMount(image, dir string, options []string) (p mountPlan, err error) {
	if p.image, err = filepath.Abs(image); err != nil {
		return p, err
	}
	if p.dir, err = filepath.Abs(dir); err != nil {
		return p, err
	}
	isDefault := p.image == defaultImage()
	if whole, err := filepath.EvalSymlinks(p.image); err == nil {
		p.image = whole
	}
	server, forMount, err := splitOptions(options)
	if err != nil {
		return p, &exitError{exitUsage, err}
	}
	if _, err := mount.ParseFlags(forMount...); err != nil {
		return p, &exitError{exitUsage, err}
	}
	if isDefault && server["--create"] == nil {
		if _, err := os.Stat(p.image); os.IsNotExist(err) {
			server["--create"] = []string{size(defaultImageSize).String()}
		}
	}
	if isDefault {
		if err := os.MkdirAll(filepath.Dir(p.image), 0o700); err != nil {
			return p, fmt.Errorf("make the directory of the image: %w", err)
		}
	}
	p.state = defaultStateDir()
	if !isDefault {
		p.state = filepath.Join(p.state, "images", imageName(p.image))
	}
	if given := server["--state"]; given != nil {
		p.state = given[len(given)-1]
	}
	p.log = filepath.Join(p.state, "mount.log")
	p.args = []string{"serve", "--until-unmounted", "--pmem", p.image, "--mount", p.dir, "--mount-options", strings.Join(forMount, ","), "--state", p.state}
	delete(server, "--state")
	if !isDefault && server["--socket"] == nil {
		server["--socket"] = []string{filepath.Join(p.state, "permafrost.sock")}
	}
	if socket := server["--socket"]; socket != nil { // PERMAFROST_ATTACH_SOCKET would be everybody's
		p.args = append(p.args, "--attach-socket", attachBeside(socket[len(socket)-1]))
	}
	if server["--listen"] == nil {
		p.args = append(p.args, "--listen-if-free")
	}
	for flag, values := range server {
		for _, v := range values {
			p.args = append(p.args, flag+"="+v)
		}
	}
	return p, nil
}

// splitOptions takes the server's options out of the text of -o; paths become
// absolute. What is left is for the mount.
func splitOptions(list []string) (server map[string][]string, forMount []string, err error) {
	server = make(map[string][]string)
	for _, o := range strings.Split(strings.Join(list, ","), ",") {
		if o = strings.TrimSpace(o); o == "" {
			continue
		}
		name, value, has := strings.Cut(o, "=")
		flag, ours := serverOptions[name]
		switch {
		case name == "remount":
			return nil, nil, fmt.Errorf("mount option \"remount\" is not supported: unmount and mount again (\"mount -i -o remount,ro DIR\" makes the kernel's side read-only)")
		case !ours:
			forMount = append(forMount, o)
			continue
		case !has || value == "":
			return nil, nil, fmt.Errorf("mount option %q takes a value, such as %s=VALUE", o, name)
		}
		if name == "state" || name == "socket" {
			if value, err = filepath.Abs(value); err != nil {
				return nil, nil, err
			}
		}
		server[flag] = append(server[flag], value)
	}
	return server, forMount, nil
}

// imageName is a short name of an image, for its state directory: a Unix socket in
// there has to fit into 107 bytes.
func imageName(path string) string {
	sum := sha256.Sum256([]byte(path))
	base := filepath.Base(path)
	return fmt.Sprintf("%s-%x", base[:min(len(base), 24)], sum[:4])
}

// exec becomes the server.
func (p *mountPlan) exec() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	return fmt.Errorf("start the server: %w", syscall.Exec(exe, append([]string{"permafrost"}, p.args...), os.Environ()))
}
