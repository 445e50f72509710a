package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// remote is embedded by the verbs that talk to a running appliance.
type remote struct {
	Server string `help:"Address of the appliance, such as http://127.0.0.1:7433. By default its Unix socket is looked for." placeholder:"URL"`
	Socket string `help:"Unix socket of the appliance." placeholder:"PATH" type:"path"`
	JSON   bool   `name:"json" help:"Print the appliance's own JSON."`
}

// problem is an RFC 9457 answer, with the fields that verbs print.
type problem struct {
	Type       string     `json:"type"`
	Title      string     `json:"title"`
	Status     int        `json:"status"`
	Detail     string     `json:"detail"`
	FreezeID   uint64     `json:"freeze_id"`
	Holders    []string   `json:"holders"`
	WaitingFor []string   `json:"waiting_for"`
	ExpiresAt  *time.Time `json:"expires_at"`
}

func (p *problem) Error() string {
	s := p.Title
	if p.Detail != "" {
		s += ": " + p.Detail
	}
	if len(p.WaitingFor) > 0 {
		s += " (waiting for " + strings.Join(p.WaitingFor, ", ") + ")"
	}
	return s
}

// name is the last element of the problem's type, such as already-frozen.
func (p *problem) name() string { return p.Type[strings.LastIndexByte(p.Type, '/')+1:] }

// errNoServer says that nobody answered.
var errNoServer = errors.New("no appliance answers")

// apiClient speaks rest.md over a Unix socket or TCP.
type apiClient struct {
	base string
	http *http.Client
}

// client finds the appliance: --server, --socket, else the fixed places.
func (r *remote) client() (*apiClient, error) {
	if r.Server != "" {
		u, err := url.Parse(r.Server)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, &exitError{exitUsage, fmt.Errorf("--server %q is not an address: write it like http://127.0.0.1:7433", r.Server)}
		}
		return &apiClient{base: strings.TrimRight(r.Server, "/"), http: &http.Client{}}, nil
	}
	places := defaultSockets()
	if r.Socket != "" {
		places = []string{r.Socket}
	}
	for _, path := range places {
		conn, err := net.DialTimeout("unix", path, 2*time.Second)
		if err != nil {
			continue
		}
		conn.Close()
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}
		return &apiClient{base: "http://localhost", http: &http.Client{Transport: &http.Transport{DialContext: dial}}}, nil
	}
	if r.Socket == "" {
		conn, err := net.DialTimeout("tcp", "127.0.0.1:7433", 2*time.Second)
		if err == nil {
			conn.Close()
			return &apiClient{base: "http://127.0.0.1:7433", http: &http.Client{}}, nil
		}
		places = append(places, "127.0.0.1:7433")
	}
	return nil, &exitError{exitNoServer, fmt.Errorf("%w at %s: start one with \"permafrost serve\", or name it with --socket or --server",
		errNoServer, strings.Join(places, ", "))}
}

// do sends a request and returns the answer's body as it comes; any status
// from 400 on is a *problem.
func (c *apiClient) do(ctx context.Context, method, path string, q url.Values, body io.Reader) (*http.Response, error) {
	u := c.base + path
	if len(q) > 0 {
		u += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	p := &problem{Status: resp.StatusCode}
	if json.Unmarshal(text, p) != nil || p.Title == "" {
		p.Title = fmt.Sprintf("%s %s answered %s", method, path, resp.Status)
		p.Detail = strings.TrimSpace(string(text))
	}
	return nil, p
}

// call does a request and decodes its JSON answer into v; raw has it whole.
func (c *apiClient) call(ctx context.Context, method, path string, q url.Values, v any) (raw []byte, err error) {
	resp, err := c.do(ctx, method, path, q, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err = io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if v != nil {
		if err := json.Unmarshal(raw, v); err != nil {
			return nil, fmt.Errorf("%s %s: the answer is not the JSON expected: %w", method, path, err)
		}
	}
	return raw, nil
}

// printJSON writes an answer indented, as it came otherwise.
func (c *console) printJSON(raw []byte) error {
	var buf bytes.Buffer
	if err := json.Indent(&buf, raw, "", "  "); err != nil {
		return err
	}
	buf.WriteByte('\n')
	_, err := buf.WriteTo(c.out)
	return err
}

// params collects query values, leaving out empty ones.
func params(kv ...string) url.Values {
	q := url.Values{}
	for i := 0; i+1 < len(kv); i += 2 {
		if kv[i+1] != "" {
			q.Set(kv[i], kv[i+1])
		}
	}
	return q
}

func flag(b bool) string {
	if b {
		return "true"
	}
	return ""
}

func duration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// isTerminal tells whether progress bars and colours make sense.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

// callToken is call with the header that a hold made with a token asks for.
func (c *apiClient) callToken(ctx context.Context, method, path string, q url.Values, token string, v any) ([]byte, error) {
	if token == "" {
		return c.call(ctx, method, path, q, v)
	}
	with := *c
	with.http = &http.Client{Transport: tokenTransport{token, c.http.Transport}}
	return with.call(ctx, method, path, q, v)
}

// tokenTransport adds the Freeze-Token header.
type tokenTransport struct {
	token string
	next  http.RoundTripper // nil: the default
}

func (t tokenTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Freeze-Token", t.token)
	next := t.next
	if next == nil {
		next = http.DefaultTransport
	}
	return next.RoundTrip(r)
}
