package api

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"permafrost/core"
	"permafrost/core/format"
)

// Limits of paths, in bytes, as the image has them.
const (
	maxNameBytes = 255
	maxPathBytes = 4096
)

// imagePath is a path in the image: names from the root, without . and ..
// Immutable.
type imagePath struct {
	names []string
	dir   bool // written with a trailing slash
}

func (p imagePath) root() bool { return len(p.names) == 0 }

// abs is the path as core takes it.
func (p imagePath) abs() string { return "/" + strings.Join(p.names, "/") }

// parent is the directory above; not for the root.
func (p imagePath) parent() imagePath { return imagePath{names: p.names[:len(p.names)-1], dir: true} }

// name is the last name; not for the root.
func (p imagePath) name() string { return p.names[len(p.names)-1] }

// requestPath is the path of a request under /files/. Names are decoded one by
// one, so that an encoded slash cannot pass for a separator.
func requestPath(r *http.Request) (imagePath, error) {
	raw := strings.TrimPrefix(strings.TrimPrefix(r.URL.EscapedPath(), "/files"), "/")
	return splitPath(raw, url.PathUnescape)
}

// parseImagePath is a path given as a parameter, already decoded. A leading
// slash may be left out.
func parseImagePath(text string) (imagePath, error) {
	return splitPath(strings.TrimPrefix(text, "/"), func(s string) (string, error) { return s, nil })
}

func splitPath(raw string, decode func(string) (string, error)) (imagePath, error) {
	var p imagePath
	if raw == "" {
		return imagePath{dir: true}, nil
	}
	raw, p.dir = strings.CutSuffix(raw, "/")
	total := 0
	for part := range strings.SplitSeq(raw, "/") {
		name, err := decode(part)
		if err != nil {
			return p, problem(kindBadPath, "%s is badly percent-encoded: %v", shorten(part), err)
		}
		if err := checkName(name); err != nil {
			return p, err
		}
		if total += len(name) + 1; total > maxPathBytes {
			return p, problem(kindBadPath, "the path is longer than %d bytes", maxPathBytes)
		}
		p.names = append(p.names, name)
	}
	return p, nil
}

// checkName refuses what cannot be a name in a directory.
func checkName(name string) error {
	switch {
	case name == "":
		return problem(kindBadPath, "the path has an empty name in it; write single slashes")
	case name == "." || name == "..":
		return problem(kindBadPath, "%q is not a name here; write the path from the root (curl needs --path-as-is to send such paths at all)", name)
	case len(name) > maxNameBytes:
		return problem(kindBadPath, "a name has %d bytes; at most %d", len(name), maxNameBytes)
	case strings.IndexByte(name, 0) >= 0:
		return problem(kindBadPath, "a name has a NUL byte in it")
	case strings.IndexByte(name, '/') >= 0:
		return problem(kindBadPath, "a name has a slash in it (%%2F); names cannot")
	}
	return nil
}

// fileHref is where the bytes of a path are served: percent-encoded, so that
// names that are not UTF-8 survive. "" for no path.
func fileHref(path string) string {
	if path == "" {
		return ""
	}
	var b strings.Builder
	b.WriteString("/files")
	for name := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		b.WriteString("/")
		b.WriteString(url.PathEscape(name))
	}
	return b.String()
}

// utf8Path is a path for JSON strings: bytes that are not UTF-8 become U+FFFD;
// the href beside it has them all.
func utf8Path(path string) string {
	if utf8.ValidString(path) {
		return path
	}
	return strings.ToValidUTF8(path, "�")
}

// inodeProblem turns "not found" of an inode number into its own refusal.
func inodeProblem(ino format.Ino, err error) error {
	if errors.Is(err, core.ErrNotFound) || errors.Is(err, core.ErrStale) {
		return problem(kindNoSuchInode, "there is no inode %d; GET /inodes lists them", ino).because(err)
	}
	return err
}

// S_IFMT and its values, as in stat(2).
const (
	modeFormat = 0o170000
	modeDir    = 0o040000
	modeFile   = 0o100000
	modeLink   = 0o120000
)

func isDir(mode uint32) bool { return mode&modeFormat == modeDir }

// typeName is a file type as the surface writes it.
func typeName(mode uint32) string {
	switch mode & modeFormat {
	case modeFile:
		return "file"
	case modeDir:
		return "directory"
	case modeLink:
		return "symlink"
	case 0o010000:
		return "fifo"
	case 0o020000:
		return "char_device"
	case 0o060000:
		return "block_device"
	case 0o140000:
		return "socket"
	}
	return "unknown"
}
