package api

import (
	"fmt"
	"net/http"
	"strings"

	"permafrost/core"
)

// fileETag names the content of a file: it changes with every write, rename
// over it, and change of its attributes. Stores through a program's mapping
// stamp the times once a dirty period only, so it is weak while a file may be
// stored to that way.
func fileETag(a *core.Attr, mapped bool) string {
	tag := fmt.Sprintf(`"%x-%x-%x-%x"`, uint64(a.Ino), a.Size, a.Mtime.UnixNano(), a.Ctime.UnixNano())
	if mapped {
		return "W/" + tag
	}
	return tag
}

// conditions are the If-Match and If-None-Match of a request that changes.
type conditions struct {
	match, noneMatch string
}

func conditionsOf(r *http.Request) conditions {
	return conditions{match: strings.Join(r.Header.Values("If-Match"), ","),
		noneMatch: strings.Join(r.Header.Values("If-None-Match"), ",")}
}

// check holds old, nil if the name is free, against the conditions (RFC 9110,
// 13.1). It returns core.ErrPrecond, wrapped, if they are not met.
func (c conditions) check(old *core.Attr, etag string) error {
	if c.match != "" {
		if old == nil {
			return fmt.Errorf("%w: If-Match, and the file does not exist", core.ErrPrecond)
		}
		if !listsTag(c.match, etag, true) {
			return fmt.Errorf("%w: If-Match, and the file is %s now", core.ErrPrecond, etag)
		}
	}
	if c.noneMatch != "" && old != nil && listsTag(c.noneMatch, etag, false) {
		return fmt.Errorf("%w: If-None-Match, and the file is %s", core.ErrPrecond, etag)
	}
	return nil
}

// listsTag says whether a list of tags has tag. The strong comparison, which
// If-Match needs, finds no weak tag.
func listsTag(list, tag string, strong bool) bool {
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		switch {
		case item == "*":
			return true
		case strong && (strings.HasPrefix(item, "W/") || strings.HasPrefix(tag, "W/")):
		case strings.TrimPrefix(item, "W/") == strings.TrimPrefix(tag, "W/"):
			return true
		}
	}
	return false
}
