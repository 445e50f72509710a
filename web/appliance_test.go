package web

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// appliance is the real program, serving its demo: a real image, ledger,
// attach server and a process that stores through mappings.
type appliance struct {
	url string
	out *bytes.Buffer // guard: only after the process has ended
}

// startAppliance builds and starts `permafrost serve --demo`.
func startAppliance(t *testing.T) *appliance {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "permafrost-web-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	bin := filepath.Join(dir, "permafrost")
	if out, err := exec.Command("go", "build", "-o", bin, "../cmd/permafrost").CombinedOutput(); err != nil {
		t.Fatalf("building the appliance: %v\n%s", err, out)
	}
	cmd := exec.Command(bin, "serve", "--demo", "--listen", "127.0.0.1:0", "--socket", filepath.Join(dir, "s.sock"),
		"--state", filepath.Join(dir, "state"))
	a := &appliance{out: &bytes.Buffer{}}
	cmd.Stderr = a.out
	// Should the test die, the appliance must not stay behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("the appliance ended with %v\n%s", err, a.out)
			}
		case <-time.After(60 * time.Second):
			_ = cmd.Process.Kill()
			t.Errorf("the appliance did not stop\n%s", a.out)
			<-done
		}
	})
	found := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			if m := regexp.MustCompile(`dashboard\s+(http://\S+)/ui/`).FindStringSubmatch(lines.Text()); m != nil {
				found <- m[1]
			}
		}
	}()
	select {
	case a.url = <-found:
	case <-time.After(60 * time.Second):
		t.Fatal("the appliance did not say where its dashboard is")
	}
	return a
}

// call makes a REST request and reads its JSON answer.
func (a *appliance) call(t *testing.T, method, path string, into any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, a.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %d %v\n%s", method, path, res.StatusCode, err, body)
	}
	if into != nil {
		if err := json.Unmarshal(body, into); err != nil {
			t.Fatalf("%s: %v\n%s", path, err, body)
		}
	}
}

type restStatus struct {
	State  string `json:"state"`
	Freeze *struct {
		ID       int64   `json:"id"`
		WindowUS float64 `json:"window_us"`
		TotalUS  float64 `json:"total_us"`
		Holds    []struct {
			Hold   string `json:"hold"`
			Holder string `json:"holder"`
		} `json:"holds"`
	} `json:"freeze"`
	Generation uint64 `json:"generation"`
	Space      struct {
		Used  uint64 `json:"used_bytes"`
		Total uint64 `json:"total_bytes"`
		Free  uint64 `json:"free_bytes"`
	} `json:"space"`
	Inodes struct {
		Total  uint64 `json:"total"`
		Cached uint64 `json:"cached"`
		Dirty  uint64 `json:"dirty"`
	} `json:"inodes"`
	DirtyPages uint64 `json:"dirty_pages_total"`
	Mappings   uint64 `json:"mappings_total"`
	Blocked    uint64 `json:"blocked_total"`
}

// waitFor waits until a JavaScript condition holds in a tab; the tab may
// navigate meanwhile.
func waitFor(t *testing.T, ctx context.Context, condition string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool](condition))
		if err == nil && ok {
			return
		}
		if time.Now().After(deadline) {
			text, _ := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body.innerText`))
			t.Fatalf("waiting for %s: %v\nthe page says:\n%s", condition, err, text)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func pageText(t *testing.T, ctx context.Context) string {
	t.Helper()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.getElementById("main").innerText`))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(text), " ")
}

// TestApplianceInABrowser is a person at the dashboard: freeze and thaw by
// clicking, a second tab that follows, a real mapped writer held meanwhile,
// every figure equal to /status and the ledger, nothing on the console.
func TestApplianceInABrowser(t *testing.T) {
	ctx := browser(t)
	a := startAppliance(t)
	said := listen(t, ctx)
	second, cancel := chromedp.NewContext(ctx)
	defer cancel()
	saidSecond := listen(t, second)
	open := func(ctx context.Context, path string) {
		t.Helper()
		if err := chromedp.Do(ctx, chromedp.EmulateViewport(1280, 900), chromedp.Navigate(a.url+path), chromedp.WaitVisible("#main")); err != nil {
			t.Fatal(err)
		}
	}
	live := `document.getElementById("liveness").textContent.includes("live")`
	open(second, "/ui/")
	open(ctx, "/ui/")
	waitFor(t, ctx, live)
	// The demo's program has mapped its files and dirties pages.
	waitFor(t, ctx, `!document.getElementById("r-cost").innerText.startsWith("0 dirty inodes")`)
	shoot(t, ctx, "appliance-unfrozen")

	if err := chromedp.Do(ctx, chromedp.SetValue("#r-controls input[name=lease]", "5m"),
		chromedp.Click("#r-controls button.primary")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, ctx, `document.readyState === "complete" && document.querySelector(".note") !== null`)
	waitFor(t, ctx, `document.getElementById("state").innerText === "Frozen"`)
	// The other tab was not touched.
	waitFor(t, second, `document.getElementById("state").innerText === "Frozen" && document.title.startsWith("Frozen")`)
	// The demo's threads are held one by one at their next store.
	waitFor(t, ctx, `document.querySelectorAll("#r-waiters tbody tr").length >= 3`)
	waitFor(t, ctx, live)
	shoot(t, ctx, "appliance-frozen")

	frozenFigures(t, ctx, a)
	walkPages(t, ctx, a, said, open)

	open(ctx, "/ui/")
	if err := chromedp.Do(ctx, chromedp.Click("#r-controls form[action='/ui/thaw'] button")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, ctx, `document.readyState === "complete" && document.querySelector(".note") !== null`)
	if text := pageText(t, ctx); !strings.Contains(text, "stood without a gap") {
		t.Errorf("the thaw is not told: %s", text)
	}
	waitFor(t, second, `document.getElementById("state").innerText === "Unfrozen"`)
	waitFor(t, second, `document.querySelectorAll("#r-waiters tbody tr").length === 0`)
	waitFor(t, second, `document.querySelectorAll(".mark.held").length === 1`)
	ledgerFigures(t, ctx, a, open)
	for _, c := range []*complaints{said, saidSecond} {
		if all := c.take(); len(all) > 0 {
			t.Errorf("the browser complained:\n%s", strings.Join(all, "\n"))
		}
	}
}

// frozenFigures compares the overview with /status; while frozen both are still.
func frozenFigures(t *testing.T, ctx context.Context, a *appliance) {
	t.Helper()
	var st restStatus
	var text string
	// The demo's last threads may still be arriving: compare when they have.
	for range 50 {
		var again restStatus
		a.call(t, "GET", "/status", &st)
		text = pageText(t, ctx)
		a.call(t, "GET", "/status", &again)
		if again.Blocked == st.Blocked && strings.Contains(text, fmt.Sprintf("%s held, oldest first", plural(st.Blocked, "caller is", "callers are"))) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if st.Freeze == nil || st.State != "frozen" {
		t.Fatalf("status %+v", st)
	}
	for _, want := range []string{
		plural(st.Blocked, "caller is", "callers are") + " held, oldest first",
		"freeze " + fmt.Sprint(st.Freeze.ID), "held by " + st.Freeze.Holds[0].Holder, "hold " + st.Freeze.Holds[0].Hold,
		"Generation " + count(st.Generation), "Inodes " + count(st.Inodes.Total), count(st.Inodes.Cached) + " cached",
		"Mappings " + count(st.Mappings), sizeText(st.Space.Used) + " used", "of " + sizeText(st.Space.Total),
		"window " + microsText(st.Freeze.WindowUS),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("/status says %q, the page does not:\n%s", want, text)
		}
	}
}

// walkPages looks at every page while frozen, with axe.
func walkPages(t *testing.T, ctx context.Context, a *appliance, said *complaints, open func(context.Context, string)) {
	t.Helper()
	var inodes struct {
		Items []struct {
			Ino   uint64   `json:"ino"`
			Paths []string `json:"paths"`
			Maps  int      `json:"mappings_total"`
		} `json:"items"`
	}
	a.call(t, "GET", "/inodes?mapped=true", &inodes)
	if len(inodes.Items) == 0 {
		t.Fatal("the demo maps nothing")
	}
	i := inodes.Items[0]
	pages := map[string]string{
		"/ui/": "Frozen", "/ui/freezes": "frozen", "/ui/freezes/1": "The window enlarged", "/ui/inodes?mapped=true": i.Paths[0],
		fmt.Sprintf("/ui/inodes/%d", i.Ino): "extent", "/ui/mappings": "demo",
	}
	n := 0
	for path, want := range pages {
		open(ctx, path)
		waitFor(t, ctx, `document.getElementById("liveness").textContent.includes("live")`)
		if text := pageText(t, ctx); !strings.Contains(text, want) {
			t.Errorf("%s does not say %q:\n%s", path, want, text)
		}
		bad, passes, err := axe(ctx)
		if err != nil || passes < 10 {
			t.Errorf("axe on %s: %d passes, %v", path, passes, err)
		}
		for _, b := range bad {
			t.Errorf("%s: %s", path, b)
		}
		n++
		shoot(t, ctx, fmt.Sprintf("appliance-page-%s", strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(path, "-"), "-")))
		if all := said.take(); len(all) > 0 {
			t.Errorf("%s: the browser complained:\n%s", path, strings.Join(all, "\n"))
		}
	}
}

// ledgerFigures compares the page of the ended freeze with GET /freezes/1.
func ledgerFigures(t *testing.T, ctx context.Context, a *appliance, open func(context.Context, string)) {
	t.Helper()
	var f struct {
		State    string  `json:"state"`
		WindowUS float64 `json:"window_us"`
		TotalUS  float64 `json:"total_us"`
		Phases   []struct {
			Name       string  `json:"name"`
			DurationUS float64 `json:"duration_us"`
		} `json:"phases"`
		Flushed struct {
			Inodes int64 `json:"inodes"`
			Pages  int64 `json:"pages"`
		} `json:"flushed"`
		LongestWaitUS float64 `json:"longest_wait_us"`
		Blocked       int64   `json:"blocked_total"`
	}
	for range 100 { // the recorder writes a moment later
		a.call(t, "GET", "/freezes/1", &f)
		if f.State == "thawed" {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	open(ctx, "/ui/freezes/1")
	waitFor(t, ctx, `document.querySelectorAll("#r-waits tbody tr").length >= 3 && document.querySelectorAll("#r-found tbody tr").length >= 1`)
	text := pageText(t, ctx)
	want := []string{"held", "Window " + microsText(f.WindowUS), "Request to complete " + microsText(f.TotalUS),
		"Flushed " + pagesText(f.Flushed.Pages), plural(f.Flushed.Inodes, "inode", "inodes"), "Held callers " + count(f.Blocked),
		"the longest for " + microsText(f.LongestWaitUS)}
	for _, p := range f.Phases {
		want = append(want, p.Name+" "+microsText(p.DurationUS))
	}
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("the ledger says %q, the page does not:\n%s", w, text)
		}
	}
	shoot(t, ctx, "appliance-freeze-ended")
}
