package main

import "testing"

// What is shown to people can be given to curl and to a browser as it is.
func TestShownAddress(t *testing.T) {
	for at, want := range map[string]string{
		"http://[::]:7433":      "http://localhost:7433",
		"http://0.0.0.0:80":     "http://localhost:80",
		"http://127.0.0.1:7433": "http://127.0.0.1:7433",
		"http://[::1]:7433":     "http://[::1]:7433",
		"http://10.1.2.3:1":     "http://10.1.2.3:1",
		"http://localhost:7433": "http://localhost:7433",
	} {
		if got := fromHere(at); got != want {
			t.Errorf("%s is shown as %s, want %s", at, got, want)
		}
	}
}
