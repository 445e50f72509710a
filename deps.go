//go:build tools

package permafrost

import (
	_ "github.com/RoaringBitmap/roaring/v2"
	_ "github.com/a-h/templ"
	_ "github.com/alecthomas/kong"
	_ "github.com/chromedp/chromedp"
	_ "github.com/danielgtaylor/huma/v2"
	_ "github.com/dustin/go-humanize"
	_ "github.com/go-chi/chi/v5"
	_ "github.com/mattn/go-sqlite3"
	_ "github.com/pressly/goose/v3"
	_ "github.com/prometheus/client_golang/prometheus"
	_ "go.uber.org/goleak"
	_ "golang.org/x/sys/unix"
	_ "pgregory.net/rapid"
)
