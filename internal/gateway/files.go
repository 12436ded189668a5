package gateway

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"time"
)

// fileRoot serves the files of a folder. Nothing outside of the folder can be
// reached, not by symbolic links either; names that begin with a dot and folders
// without index.html do not exist for clients. The folder is opened for every
// request, so that it may be replaced as a whole.
type fileRoot struct {
	dir  string
	skip int // segments of the route's path before what names the file; -1: the last one names it
}

// openFiles checks the folder.
func openFiles(dir, pattern string) (*fileRoot, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("open files: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("open files: %s is not a folder", dir)
	}
	segments, err := parsePath(pattern)
	if err != nil {
		return nil, fmt.Errorf("path %w", err)
	}
	f := &fileRoot{dir: dir, skip: -1}
	switch segments[len(segments)-1].kind {
	case rest, end:
		f.skip = len(segments) - 1
	case literal, single:
	}
	return f, nil
}

// name returns the file that a path names, "" if none can.
func (f *fileRoot) name(escaped string) string {
	rest := escaped[1:]
	if f.skip < 0 {
		rest = rest[strings.LastIndexByte(rest, '/')+1:]
	}
	for range max(f.skip, 0) {
		_, rest, _ = strings.Cut(rest, "/")
	}
	name := unescape(rest)
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

func (f *fileRoot) serve(w http.ResponseWriter, r *http.Request, x *exchange) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		x.fail(w, r, http.StatusMethodNotAllowed, "the method is not allowed here")
		return
	}
	name := f.name(r.URL.EscapedPath())
	if name == "" {
		x.fail(w, r, http.StatusNotFound, "there is no such file")
		return
	}
	file, info, err := f.open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errNotServed):
		x.fail(w, r, http.StatusNotFound, "there is no such file")
		return
	case err != nil: // also a link that leads out, which os.Root refuses
		x.cause = err.Error()
		x.fail(w, r, http.StatusNotFound, "there is no such file")
		return
	}
	defer file.Close()
	h := w.Header()
	h.Set("Content-Type", mediaType(name))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", etag(info))
	http.ServeContent(&fileAnswer{answer: &x.answer}, r, name, info.ModTime(), file)
}

var errNotServed = errors.New("not a plain file")

func (f *fileRoot) open(name string) (*os.File, fs.FileInfo, error) {
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
		return nil, nil, errNotServed
	}
	file, err := root.Open(name)
	if err != nil {
		return nil, nil, err
	}
	if hidden(root, file) {
		_ = file.Close()
		return nil, nil, errNotServed
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

// fileAnswer puts the write deadline off while a file makes progress: in pieces,
// each handed to the kernel as a whole.
type fileAnswer struct{ *answer }

const filePiece = 1 << 20

// ReadFrom copies the file.
func (a *fileAnswer) ReadFrom(src io.Reader) (int64, error) {
	whole, ok := src.(*io.LimitedReader)
	if !ok {
		whole = &io.LimitedReader{R: src, N: 1<<63 - 1}
	}
	var sum int64
	for whole.N > 0 {
		a.stretch(time.Now())
		// One level of LimitedReader is what the kernel's copy can see through.
		piece := io.LimitedReader{R: whole.R, N: min(whole.N, filePiece)}
		n, err := a.answer.ReadFrom(&piece)
		sum += n
		whole.N -= n
		if err != nil || piece.N > 0 {
			return sum, err
		}
	}
	return sum, nil
}
