package web

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

//go:embed testdata/axe/axe.min.js
var axeSource string

// shotsDir keeps screenshots as test output; TestMain of nobody cleans it.
const shotsDir = "testdata/shots"

// browser starts Debian's chromium for one test.
func browser(t *testing.T) context.Context {
	t.Helper()
	var bin string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			bin = p
			break
		}
	}
	if bin == "" {
		t.Skip("no chromium on this machine: apt-get install chromium, then run this test again")
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(bin), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.UserDataDir(t.TempDir()),
		chromedp.WSURLReadTimeout(90*time.Second))
	actx, cancel := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(cancel)
	ctx, cancel2 := chromedp.NewContext(actx)
	t.Cleanup(cancel2)
	ctx, cancel3 := context.WithTimeout(ctx, 10*time.Minute)
	t.Cleanup(cancel3)
	return ctx
}

// complaints collects what a tab's console, its exceptions and the browser's
// log (where CSP violations stand) say.
type complaints struct {
	mu  sync.Mutex
	all []string // guard mu
}

func listen(t *testing.T, ctx context.Context) *complaints {
	t.Helper()
	c := &complaints{}
	err := chromedp.Listen(ctx, func(ev any) {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch e := ev.(type) {
		case *runtime.EventConsoleAPICalled:
			c.all = append(c.all, fmt.Sprintf("console.%s %v", e.Type, e.Args))
		case *runtime.EventExceptionThrown:
			c.all = append(c.all, "exception "+e.ExceptionDetails.Text)
		case *log.EventEntryAdded:
			c.all = append(c.all, fmt.Sprintf("%s: %s %v", e.Entry.Level, e.Entry.Text, e.Entry.URL))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, log.Enable, cdp.Empty{}); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *complaints) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.all
	c.all = nil
	return out
}

// shoot keeps a screenshot of the whole page.
func shoot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.MkdirAll(shotsDir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(shotsDir, name+".png"), png, 0o644)
	}
	if err != nil {
		t.Errorf("screenshot %s: %v", name, err)
	}
}

type axeResult struct {
	Violations []struct {
		ID    string `json:"id"`
		Help  string `json:"help"`
		Nodes []struct {
			HTML           string `json:"html"`
			FailureSummary string `json:"failureSummary"`
		} `json:"nodes"`
	} `json:"violations"`
	Passes []struct {
		ID string `json:"id"`
	} `json:"passes"`
}

// axe runs every rule of axe-core and returns what it found wrong.
func axe(ctx context.Context) (bad []string, passes int, _ error) {
	if _, err := chromedp.Run(ctx, chromedp.Evaluate[chromedp.Void](axeSource+";undefined")); err != nil {
		return nil, 0, err
	}
	raw, err := chromedp.Run(ctx, chromedp.Evaluate[string](
		`axe.run(document, {resultTypes: ["violations", "passes"]}).then(r => JSON.stringify({violations: r.violations, passes: r.passes.map(p => ({id: p.id}))}))`,
		chromedp.EvalAwaitPromise))
	if err != nil {
		return nil, 0, err
	}
	var r axeResult
	if err := json.Unmarshal([]byte(raw), &r); err != nil {
		return nil, 0, err
	}
	for _, v := range r.Violations {
		for _, n := range v.Nodes {
			bad = append(bad, fmt.Sprintf("%s: %s\n    %s\n    %s", v.ID, v.Help, n.HTML, n.FailureSummary))
		}
	}
	return bad, len(r.Passes), nil
}

// TestPagesInABrowser loads every page in every state, in both colour schemes
// and at phone width: nothing on the console, no CSP violation, no axe
// violation, no sideways scrolling of the page.
func TestPagesInABrowser(t *testing.T) {
	ctx := browser(t)
	cases := []struct {
		name, path   string
		full, frozen bool
		dark         bool
		width        int64
		long         bool // the longest names there can be, and more freezes than a page lists
	}{
		{"overview-full", "/ui/", true, false, false, 1280, false},
		{"overview-full-dark", "/ui/", true, false, true, 1280, false},
		{"overview-frozen", "/ui/", true, true, false, 1280, false},
		{"overview-frozen-dark-phone", "/ui/", true, true, true, 360, false},
		{"overview-empty", "/ui/", false, false, false, 1280, false},
		{"overview-empty-phone", "/ui/", false, false, false, 360, false},
		{"freezes-full", "/ui/freezes", true, true, false, 1280, false},
		{"freeze-past", "/ui/freezes/40", true, false, false, 1280, false},
		{"freeze-past-dark-phone", "/ui/freezes/40", true, false, true, 360, false},
		{"freeze-standing-dark", "/ui/freezes/41", true, true, true, 1280, false},
		{"freeze-rolled-back", "/ui/freezes/28", true, false, false, 1280, false},
		{"inodes-full", "/ui/inodes", true, false, false, 1280, false},
		{"inodes-empty", "/ui/inodes?path_prefix=/nowhere", true, false, true, 1280, false},
		{"inode", "/ui/inodes/13", true, false, false, 1280, false},
		{"inode-dark-phone", "/ui/inodes/13", true, false, true, 360, false},
		{"mappings-full", "/ui/mappings", true, false, false, 1280, false},
		{"mappings-frozen-dark-phone", "/ui/mappings", true, true, true, 360, false},
		{"mappings-long-phone", "/ui/mappings", true, false, false, 360, true},
		{"freeze-notify", "/ui/freezes/39", true, false, false, 1280, false},
		{"mappings-empty-phone", "/ui/mappings", false, false, false, 360, false},
		{"overview-long-phone", "/ui/", true, true, false, 360, true},
		{"freezes-long-phone", "/ui/freezes", true, true, false, 360, true},
		{"freeze-long-dark-phone", "/ui/freezes/41", true, true, true, 360, true},
		{"inodes-long", "/ui/inodes", true, false, false, 1280, true},
	}
	said := listen(t, ctx)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			now := time.Now()
			fs, l := emptyFS(now)
			if c.full {
				fs, l = fullFS(now)
			}
			if c.frozen {
				freezeNow(fs, now)
			}
			if c.long {
				lengthen(fs, l)
			}
			srv := httptest.NewServer(newUI(t, fs, l, time.Now))
			defer srv.Close()
			defer srv.CloseClientConnections()
			scheme := "light"
			if c.dark {
				scheme = "dark"
			}
			_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
			if err != nil {
				t.Fatal(err)
			}
			err = chromedp.Do(ctx,
				chromedp.EmulateViewport(c.width, 900),
				chromedp.Navigate(srv.URL+c.path),
				chromedp.WaitVisible("#main"),
				chromedp.Poll[chromedp.Void](`document.getElementById("liveness").textContent.includes("live")`, chromedp.WithPollingTimeout(20*time.Second)))
			if err != nil {
				t.Fatal(err)
			}
			overflow, err := chromedp.Run(ctx, chromedp.Evaluate[float64](`document.documentElement.scrollWidth - document.documentElement.clientWidth`))
			if err != nil {
				t.Fatal(err)
			}
			shoot(t, ctx, c.name)
			if overflow > 0 {
				t.Errorf("the page scrolls sideways by %v px at width %d", overflow, c.width)
			}
			bad, passes, err := axe(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if passes < 10 {
				t.Errorf("axe checked almost nothing: %d rules passed", passes)
			}
			for _, b := range bad {
				t.Error(b)
			}
			if all := said.take(); len(all) > 0 {
				t.Errorf("the browser complained:\n%s", strings.Join(all, "\n"))
			}
			if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
				t.Fatal(err)
			}
		})
	}
}
