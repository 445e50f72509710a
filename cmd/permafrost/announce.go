package main

import (
	"net"
	"net/url"
	"slices"
	"strings"

	"permafrost/api"
	"permafrost/dax"
	"permafrost/web"
)

// announce tells where everything is and what survives, once it serves.
func (a *appliance) announce() {
	c, st := a.console, a.fs.Status()
	survives := "what is fsynced survives a power loss"
	if !st.Medium.SurvivesPowerLoss {
		survives = "NOTHING here survives a power loss or reboot"
	}
	c.printf("Permafrost %s serves %s (%s, domain %s)\n", version(), st.Medium.Path, bytesOf(st.Medium.SizeBytes), st.Medium.Domain)
	c.printf("  durability   %s\n", survives)
	curl := "curl -X POST " + curlAddress(a.firstAddress())
	if len(a.listening) > 0 {
		c.printf("  dashboard    %s/ui/\n", a.firstAddress())
		c.printf("  REST         %s  and  unix:%s\n", strings.Join(a.listening, ", "), a.places.socket)
	} else { // all were taken
		c.printf("  REST         unix:%s\n", a.places.socket)
		curl = "curl --unix-socket " + a.places.socket + " -X POST localhost"
	}
	if note := socketNote(a.places.socket, cronSockets()); note != "" {
		c.printf("               %s\n", note)
	}
	c.printf("  attach       %s\n", a.attachLine())
	if a.mounted != nil {
		c.printf("  mount        %s\n", mountText(a.places.mount, a.mounted.Status().Options))
	}
	c.printf("  ledger       %s\n", a.places.ledger)
	if a.cmd.Demo {
		c.printf("\nThis is a demo: its image is in memory, and everything is gone when it stops.\n")
	}
	switch {
	case a.cmd.Demo && a.attach.Unavailable() != nil:
		c.printf("There is no mapped writer to hold: write protection across processes needs root (sudo make run).\n\n")
	case a.cmd.Demo:
		c.printf("A separate program (demo-writer) stores into mapped files of it, all the time. Hold it:\n\n")
	default:
		c.printf("\nFreeze and thaw:\n\n")
	}
	c.printf("  %s/freeze\n  %s/thaw\n\n", curl, curl)
}

// firstAddress is the address to show to people, without a trailing slash.
func (a *appliance) firstAddress() string {
	if len(a.listening) == 0 {
		return "http://localhost"
	}
	return fromHere(a.listening[0])
}

// fromHere is an address that works on this machine: listening on all addresses
// is none to go to.
func fromHere(at string) string {
	u, err := url.Parse(at)
	if err != nil {
		return at
	}
	if ip := net.ParseIP(u.Hostname()); ip != nil && ip.IsUnspecified() {
		u.Host = net.JoinHostPort("localhost", u.Port())
	}
	return u.String()
}

func curlAddress(url string) string { return strings.TrimPrefix(url, "http://") }

// attachLine says how programs map files, or why they cannot.
func (a *appliance) attachLine() string {
	if why := a.attachRefused(); why != "" {
		return why
	}
	return a.places.attach
}

// socketNote tells of a socket that the verbs do not find by themselves; found
// are the places where they look, whoever calls them.
func socketNote(socket string, found []string) string {
	if slices.Contains(found, socket) {
		return ""
	}
	return "clients do not look for that socket: give them --socket " + socket + ", or set PERMAFROST_SOCKET"
}

// attachRefused says why programs cannot map files, "" where they can.
func (a *appliance) attachRefused() string {
	if why := a.attach.Unavailable(); why != nil {
		return why.Error()
	}
	return ""
}

// attachForREST is nil where programs cannot map files, as /status promises.
func (a *appliance) attachForREST() api.Attach {
	if a.attachRefused() != "" {
		return nil
	}
	return attachView{a.attach}
}

// mountText is a mount and the options that were given for it.
func mountText(dir, options string) string {
	if options == "" {
		return dir
	}
	return dir + " (" + options + ")"
}

// mountForREST is nil without a mount, as /status promises.
func (a *appliance) mountForREST() api.Mount {
	if a.mounted == nil {
		return nil
	}
	return a.mounted
}

// mountForUI is nil without a mount.
func (a *appliance) mountForUI() web.Mount {
	if a.mounted == nil {
		return nil
	}
	return a.mounted
}

// attachView shows the attach server to REST.
type attachView struct{ s *dax.Server }

func (v attachView) Socket() string { return v.s.Socket() }
func (v attachView) Clients() int   { return len(v.s.Clients()) }

// attachStatus shows it to the dashboard.
func (a *appliance) attachStatus() *web.AttachStatus {
	return &web.AttachStatus{Socket: a.attach.Socket(), Clients: len(a.attach.Clients()), Refused: a.attachRefused()}
}
