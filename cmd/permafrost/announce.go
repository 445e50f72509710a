package main

import (
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
	c.printf("  dashboard    %s/ui/\n", a.firstAddress())
	c.printf("  REST         %s  and  unix:%s\n", strings.Join(a.listening, ", "), a.places.socket)
	if note := socketNote(a.places.socket, cronSockets()); note != "" {
		c.printf("               %s\n", note)
	}
	c.printf("  attach       %s\n", a.attachLine())
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
	c.printf("  curl -X POST %s/freeze\n  curl -X POST %s/thaw\n\n", curlAddress(a.firstAddress()), curlAddress(a.firstAddress()))
}

// firstAddress is the address to show to people, without a trailing slash.
func (a *appliance) firstAddress() string {
	if len(a.listening) == 0 {
		return "http://localhost"
	}
	return a.listening[0]
}

func curlAddress(url string) string { return strings.TrimPrefix(url, "http://") }

// attachLine says how programs map files, or why they cannot.
func (a *appliance) attachLine() string {
	if why := a.attach.Unavailable(); why != nil {
		return why.Error()
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

// attachForREST is nil where programs cannot map files, as /status promises.
func (a *appliance) attachForREST() api.Attach {
	if a.attach.Unavailable() != nil {
		return nil
	}
	return attachView{a.attach}
}

// attachView shows the attach server to REST.
type attachView struct{ s *dax.Server }

func (v attachView) Socket() string { return v.s.Socket() }
func (v attachView) Clients() int   { return len(v.s.Clients()) }

// attachStatus shows it to the dashboard.
func (a *appliance) attachStatus() *web.AttachStatus {
	st := &web.AttachStatus{Socket: a.attach.Socket(), Clients: len(a.attach.Clients())}
	if why := a.attach.Unavailable(); why != nil {
		st.Refused = why.Error()
	}
	return st
}
