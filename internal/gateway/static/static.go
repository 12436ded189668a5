// Package static serves the files of a folder.
//
// Nothing outside of the folder can be reached, not by symbolic links either.
// Names that begin with a dot, folders without index.html and what is not a plain
// file do not exist for clients. The folder is opened for every request, so that
// it may be replaced as a whole. It lists no folders and keeps no file in memory.
package static

import (
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"

	"fairlead/internal/gateway/match"
)

// Folder serves the files of one folder below one route. It is immutable and safe
// for concurrent use. Make it with [Open].
type Folder struct {
	dir  string
	skip int // segments of the route's path before what names the file; -1: the last one names it
}

// Open checks the folder. The pattern is the path of the route, in the syntax of
// package match: what stands behind its last slash names the file, or, where it
// ends with a slash or {name...}, all that follows.
func Open(dir, pattern string) (*Folder, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("open files: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("open files: %s is not a folder", dir)
	}
	f := &Folder{dir: dir, skip: -1}
	if strings.HasSuffix(pattern, "/") || strings.HasSuffix(pattern, "...}") || strings.HasSuffix(pattern, "/{$}") {
		f.skip = strings.Count(pattern, "/") - 1
	}
	return f, nil
}

// name returns the file that a path names, "" if none can.
func (f *Folder) name(escaped string) string {
	rest := escaped[1:]
	if f.skip < 0 {
		rest = rest[strings.LastIndexByte(rest, '/')+1:]
	}
	for range max(f.skip, 0) {
		_, rest, _ = strings.Cut(rest, "/")
	}
	name := match.Unescape(rest)
	if name == "" || strings.HasSuffix(name, "/") {
		name += "index.html"
	}
	if !fs.ValidPath(name) || strings.ContainsAny(name, "\\\x00") {
		return ""
	}
	for part := range strings.SplitSeq(name, "/") {
		if part[0] == '.' {
			return ""
		}
	}
	return name
}

// Serve answers a GET or HEAD whose path is a [match.SafePath]. When there is no
// file to answer with it says so, and has written nothing: [fs.ErrNotExist], or
// what kept it from looking, such as a link that leads out.
func (f *Folder) Serve(w http.ResponseWriter, r *http.Request) error {
	name := f.name(r.URL.EscapedPath())
	if name == "" {
		return fs.ErrNotExist
	}
	file, info, err := f.open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	h := w.Header()
	h.Set("Content-Type", mediaType(name))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", etag(info))
	http.ServeContent(w, r, name, info.ModTime(), file)
	return nil
}

func (f *Folder) open(name string) (*os.File, fs.FileInfo, error) {
	root, err := os.OpenRoot(f.dir)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	// Looked at before it is opened: opening a pipe would wait, a device may do anything.
	info, err := root.Stat(name)
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fs.ErrNotExist
	}
	file, err := root.Open(name)
	if err != nil {
		return nil, nil, err
	}
	if hidden(root, file) {
		_ = file.Close()
		return nil, nil, fs.ErrNotExist
	}
	return file, info, nil
}

// hidden reports whether a file that was reached by links is one that its own
// path would not give: a dot file, or one in a dot folder.
func hidden(root *os.Root, file *os.File) bool {
	folder, err := root.Open(".")
	if err != nil {
		return true
	}
	defer folder.Close()
	below, inside := strings.CutPrefix(realPath(file), strings.TrimSuffix(realPath(folder), "/")+"/")
	return !inside || strings.HasPrefix(below, ".") || strings.Contains(below, "/.")
}

// realPath is where an open file is, "" if that cannot be told.
func realPath(file *os.File) string {
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(file.Fd())))
	if err != nil {
		return ""
	}
	return path
}

// etag changes when the file does. Time alone is not enough: two builds can fall
// in one tick of the file system's clock.
func etag(info fs.FileInfo) string {
	return `"` + strconv.FormatInt(info.ModTime().UnixNano(), 36) + "-" + strconv.FormatInt(info.Size(), 36) + `"`
}

// mediaType goes by the name alone, so that no file can pass for another kind. The
// common kinds do not depend on the machine's tables.
func mediaType(name string) string {
	switch ext := strings.ToLower(path.Ext(name)); ext {
	case ".html", ".htm":
		return "text/html; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".js", ".mjs":
		return "text/javascript; charset=utf-8"
	case ".json", ".map":
		return "application/json"
	case ".txt", ".md":
		return "text/plain; charset=utf-8"
	case ".csv":
		return "text/csv; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	case ".ico":
		return "image/x-icon"
	case ".woff2":
		return "font/woff2"
	case ".wasm":
		return "application/wasm"
	case ".webmanifest":
		return "application/manifest+json"
	default:
		if t := mime.TypeByExtension(ext); t != "" {
			return t
		}
		return "application/octet-stream"
	}
}
