package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed assets
var assetFiles embed.FS

// asset is one embedded file. Immutable.
type asset struct {
	url  string // with a hash of its content, so that it may be cached for ever
	kind string
	data []byte
}

// assets by name and by hashed name. Immutable after start.
var assets, assetsByURL = loadAssets()

var assetKinds = map[string]string{
	".css": "text/css; charset=utf-8",
	".js":  "text/javascript; charset=utf-8",
	".svg": "image/svg+xml",
}

func loadAssets() (byName, byURL map[string]asset) {
	byName, byURL = map[string]asset{}, map[string]asset{}
	entries, err := assetFiles.ReadDir("assets")
	if err != nil {
		return byName, byURL // embedded: TestAssets would fail
	}
	for _, e := range entries {
		data, err := assetFiles.ReadFile("assets/" + e.Name())
		if err != nil {
			continue
		}
		sum := sha256.Sum256(data)
		ext := path.Ext(e.Name())
		hashed := strings.TrimSuffix(e.Name(), ext) + "." + hex.EncodeToString(sum[:8]) + ext
		a := asset{url: "/ui/assets/" + hashed, kind: assetKinds[ext], data: data}
		byName[e.Name()], byURL[hashed] = a, a
	}
	return byName, byURL
}

func assetURL(name string) string { return assets[name].url }

func serveAsset(w http.ResponseWriter, r *http.Request, name string) {
	a, ok := assetsByURL[name]
	if !ok || a.kind == "" {
		http.Error(w, "no such asset: reload the page", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", a.kind)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.data))
}
