package web

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// serveAt serves a dashboard on an address until the test ends or stop is called.
func serveAt(t *testing.T, addr string, u *UI) (url string, stop func()) {
	t.Helper()
	var l net.Listener
	var err error
	for range 50 { // the same address again: the old listener may still be closing
		if l, err = net.Listen("tcp", addr); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: u}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	stop = func() { u.Close(); _ = srv.Close(); <-done }
	t.Cleanup(stop)
	return "http://" + l.Addr().String(), stop
}

func do(t *testing.T, ctx context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatal(err)
	}
}

// TestBrowserWithoutJavaScript: a freeze, a renewal and a thaw by plain forms.
func TestBrowserWithoutJavaScript(t *testing.T) {
	ctx := browser(t)
	fs, l := fullFS(time.Now())
	url, _ := serveAt(t, "127.0.0.1:0", newUI(t, fs, l, time.Now))
	if _, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	must := func(words ...string) {
		t.Helper()
		var text string
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			raw, err := chromedp.Run(ctx, chromedp.Text("body")) // fails while the tab navigates
			text = strings.Join(strings.Fields(raw), " ")
			missing := err != nil
			for _, w := range words {
				missing = missing || !strings.Contains(text, w)
			}
			if !missing {
				return
			}
		}
		t.Fatalf("the page does not say %q: %s", words, text)
	}
	do(t, ctx, chromedp.Navigate(url+"/ui/"), chromedp.WaitVisible("#state"))
	must("Unfrozen", "7 min ago", "reload for newer figures")
	do(t, ctx, chromedp.Click("#r-controls button.primary"))
	must("Freeze 41 is complete", "1:00", "until the lease ends at")
	do(t, ctx, chromedp.Click("form[action='/ui/renew'] button"))
	must("Renewed")
	do(t, ctx, chromedp.Click("form[action='/ui/thaw'] button"))
	must("stood without a gap", "Unfrozen")
	do(t, ctx, chromedp.Navigate(url+"/ui/mappings"), chromedp.WaitVisible("#r-latency"))
	must("Through the mount", "12 files are open for reading and writing", "11 min ago", "99 % within")
}

// TestBrowserKeepsWhatThePersonDoes: updates leave typed text, focus and open
// details alone; the countdown runs between them.
func TestBrowserKeepsWhatThePersonDoes(t *testing.T) {
	ctx := browser(t)
	now := time.Now()
	fs, l := fullFS(now)
	freezeNow(fs, now)
	u := newUI(t, fs, l, time.Now)
	url, _ := serveAt(t, "127.0.0.1:0", u)
	do(t, ctx, chromedp.Navigate(url+"/ui/"), chromedp.WaitVisible("#state"))
	waitFor(t, ctx, `document.getElementById("liveness").textContent.includes("live")`)
	do(t, ctx, chromedp.Click("#join > summary"), chromedp.WaitVisible("#join input[name=reason]"),
		chromedp.SendKeys("#join input[name=reason]", "half a sent"))
	before, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.querySelector(".banner .countdown").textContent`))
	if err != nil {
		t.Fatal(err)
	}
	// A renewal changes the very region that the form stands in.
	fs.mu.Lock()
	rec := *fs.status.Freeze
	rec.Holds = append(rec.Holds[:0:0], rec.Holds...)
	rec.Holds[0].Renewals = 7
	fs.status.Freeze = &rec
	fs.mu.Unlock()
	waitFor(t, ctx, `document.getElementById("r-controls").innerText.includes("renewed 7 times")`)
	waitFor(t, ctx, `document.querySelector(".banner .countdown").textContent !== `+"`"+before+"`")
	do(t, ctx, chromedp.KeyEvent("ence"))
	waitFor(t, ctx, `document.querySelector("#join input[name=reason]").value === "half a sentence"`)
	// A hold ends: its forms go, the person's stays.
	fs.mu.Lock()
	rec2 := rec
	rec2.Holds = append(rec.Holds[:0:0], rec.Holds...)
	rec2.Holds[1].EndedAt, rec2.Holds[1].End = time.Now(), "expired"
	fs.status.Freeze = &rec2
	fs.mu.Unlock()
	waitFor(t, ctx, `document.getElementById("hold-41.2") === null`)
	waitFor(t, ctx, `document.getElementById("join").open && document.activeElement.name === "reason" && document.activeElement.value === "half a sentence"`)
}

// TestBrowserTellsOfALostConnection: the appliance goes and comes back.
func TestBrowserTellsOfALostConnection(t *testing.T) {
	ctx := browser(t)
	fs, l := fullFS(time.Now())
	url, stop := serveAt(t, "127.0.0.1:0", newUI(t, fs, l, time.Now))
	do(t, ctx, chromedp.Navigate(url+"/ui/"), chromedp.WaitVisible("#state"))
	waitFor(t, ctx, `document.getElementById("liveness").textContent.includes("live")`)
	stop()
	waitFor(t, ctx, `!document.getElementById("connection").hidden && document.getElementById("connection").innerText.includes("connection is lost")`)
	waitFor(t, ctx, `document.getElementById("liveness").textContent === ""`)
	shoot(t, ctx, "connection-lost")
	fs.status.DirtyPages = 4321
	serveAt(t, strings.TrimPrefix(url, "http://"), newUI(t, fs, l, time.Now))
	waitFor(t, ctx, `document.getElementById("connection").hidden && document.getElementById("r-cost").innerText.includes("4,321 dirty pages")`)
}

// TestBrowserClosesHiddenTabs: a tab that is not looked at holds no stream.
func TestBrowserClosesHiddenTabs(t *testing.T) {
	ctx := browser(t)
	fs, l := fullFS(time.Now())
	u := newUI(t, fs, l, time.Now)
	url, _ := serveAt(t, "127.0.0.1:0", u)
	do(t, ctx, chromedp.Navigate(url+"/ui/"), chromedp.WaitVisible("#state"))
	waitFor(t, ctx, `document.getElementById("liveness").textContent.includes("live")`)
	streams := func() int {
		u.hub.mu.Lock()
		defer u.hub.mu.Unlock()
		return u.hub.streams
	}
	if n := streams(); n != 1 {
		t.Errorf("%d streams of one tab", n)
	}
	hide := `Object.defineProperty(document, "hidden", {configurable: true, value: %s}); document.dispatchEvent(new Event("visibilitychange"))`
	do(t, ctx, chromedp.Evaluate[chromedp.Void](strings.Replace(hide, "%s", "true", 1)+"; undefined"))
	for end := time.Now().Add(10 * time.Second); streams() != 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a hidden tab keeps its stream")
		}
	}
	do(t, ctx, chromedp.Evaluate[chromedp.Void](strings.Replace(hide, "%s", "false", 1)+"; undefined"))
	for end := time.Now().Add(10 * time.Second); streams() != 1; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a tab that is shown again does not come back to life")
		}
	}
}
