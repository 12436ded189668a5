// Package static serves the files of a folder.
//
// Nothing outside of the folder can be reached, not by symbolic links either.
// Names that begin with a dot, folders without index.html and what is not a plain
// file do not exist for clients. The folder is opened for every request, so that
// it may be replaced as a whole. Ranges and conditions are those of net/http; a
// file and each of its compressed variants has a tag of its own. It lists no
// folders, keeps no file in memory and compresses nothing itself.
package static

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"mime"
	"net/http"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"fairlead/internal/gateway/encode"
	"fairlead/internal/gateway/match"
	"fairlead/internal/system"
)

// Folder serves the files of one folder below one route. It is immutable and safe
// for concurrent use. Make it with [Open].
type Folder struct {
	dir      string
	skip     int    // segments of the route's path before what names the file; -1: the last one names it
	fallback string // "" for none
	variants bool   // there may be .br, .zst and .gz beside a file
	fresh    string // Cache-Control of all but pages
}

// Open checks the folder. The pattern is the path of the route, in the syntax of
// package match: what stands behind its last slash names the file, or, where it
// ends with a slash or {name...}, all that follows. Answers of a private route
// are not for shared caches.
func Open(files *system.Files, pattern string, private bool) (*Folder, error) {
	info, err := os.Stat(files.Dir)
	if err != nil {
		return nil, fmt.Errorf("open files: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("open files: %s is not a folder", files.Dir)
	}
	f := &Folder{dir: files.Dir, skip: -1, fallback: files.Fallback, variants: files.Precompressed, fresh: "no-cache"}
	if f.fallback != "" && !served(f.fallback) {
		return nil, fmt.Errorf("open files: the fallback %q must name a file in the folder", f.fallback)
	}
	if seconds := int64(files.MaxAge / time.Second); seconds > 0 {
		f.fresh = "max-age=" + strconv.FormatInt(seconds, 10)
		if private {
			f.fresh = "private, " + f.fresh
		}
	}
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
	if !served(name) {
		return ""
	}
	return name
}

// served reports whether a name can be that of a file for clients.
func served(name string) bool {
	if !fs.ValidPath(name) || strings.ContainsAny(name, "\\\x00") {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if part[0] == '.' {
			return false
		}
	}
	return true
}

// Serve answers a GET or HEAD whose path is a [match.SafePath]. When there is no
// file to answer with it says so, and has written nothing: [fs.ErrNotExist], or
// what kept it from looking, such as a link that leads out.
func (f *Folder) Serve(w http.ResponseWriter, r *http.Request) error {
	name := f.name(r.URL.EscapedPath())
	if name == "" {
		return fs.ErrNotExist
	}
	root, err := os.OpenRoot(f.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	file, info, err := open(root, name)
	fellBack := false
	if errors.Is(err, fs.ErrNotExist) && f.fallsBack(name, r) {
		fellBack, name = true, f.fallback
		file, info, err = open(root, name)
	}
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was only read
	h := w.Header()
	media := mediaType(name)
	h.Set("Content-Type", media)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", f.fresh)
	if strings.HasPrefix(media, "text/html") { // a page names its assets: it must not be older than they are
		h.Set("Cache-Control", "no-cache")
	}
	if fellBack {
		h.Add("Vary", "Accept")
	}
	tag := etag(info)
	if f.variants && encode.Compressible(media) {
		encode.Vary(h)
		if coding, smaller, of := variant(root, name, info, r.Header["Accept-Encoding"]); smaller != nil {
			_ = file.Close() // it was not read
			file, info, tag = smaller, of, etag(of, coding)
			h.Set("Content-Encoding", coding)
			w = &sized{ResponseWriter: w, size: info.Size()}
		}
	}
	h.Set("ETag", tag)
	http.ServeContent(w, sparing(r), name, info.ModTime(), file)
	return nil
}

// sparing is r without its ranges, if there are so many that the file as a whole costs
// less: each is a part of the answer with a head of its own (RFC 9110, section 17.15).
func sparing(r *http.Request) *http.Request {
	const most = 32
	if ranges := r.Header["Range"]; len(ranges) == 0 || strings.Count(ranges[0], ",") < most {
		return r
	}
	whole := *r
	whole.Header = maps.Clone(r.Header)
	whole.Header.Del("Range")
	return &whole
}

// fallsBack reports whether a page answers for a name that does not exist: to
// programs that ask for a page by name, as browsers do when they go to an address,
// and for what does not look like an asset. A script that is missing must not be
// answered with a page.
func (f *Folder) fallsBack(name string, r *http.Request) bool {
	if f.fallback == "" {
		return false
	}
	if media := knownType(path.Ext(name)); media != "" && !strings.HasPrefix(media, "text/html") {
		return false
	}
	for _, line := range r.Header["Accept"] {
		for item := range strings.SplitSeq(line, ",") {
			media, params, _ := strings.Cut(item, ";")
			if strings.EqualFold(strings.TrimSpace(media), "text/html") && encode.Weight(params) > 0 {
				return true
			}
		}
	}
	return false
}

// suffixes are what the names of files end with that were compressed before.
var suffixes = map[string]string{encode.Brotli: ".br", encode.Zstd: ".zst", encode.Gzip: ".gz"}

// variant opens the form of a file that a client likes best, nil if there is none.
// One that is older than the file itself was made of another content.
func variant(root *os.Root, name string, plain fs.FileInfo, accept []string) (string, *os.File, fs.FileInfo) {
	offers := []string{encode.Brotli, encode.Zstd, encode.Gzip}
	for len(offers) > 0 && len(accept) > 0 {
		coding := encode.Choose(accept, offers...)
		if coding == "" {
			break
		}
		if file, info, err := open(root, name+suffixes[coding]); err == nil {
			if !info.ModTime().Before(plain.ModTime()) {
				return coding, file, info
			}
			_ = file.Close() // it was not read
		}
		offers = slices.DeleteFunc(offers, func(o string) bool { return o == coding })
	}
	return "", nil, nil
}

// sized gives an answer its length, which net/http leaves out of coded ones.
type sized struct {
	http.ResponseWriter
	size int64
}

// WriteHeader writes the head.
func (s *sized) WriteHeader(status int) {
	if status == http.StatusOK {
		s.Header().Set("Content-Length", strconv.FormatInt(s.size, 10))
	}
	s.ResponseWriter.WriteHeader(status)
}

// ReadFrom lets the kernel copy files.
func (s *sized) ReadFrom(src io.Reader) (int64, error) {
	return io.Copy(s.ResponseWriter, src)
}

// open opens a plain file that is not hidden.
func open(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
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
		_ = file.Close() // it was not read
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
func etag(info fs.FileInfo, coding ...string) string {
	parts := append([]string{strconv.FormatInt(info.ModTime().UnixNano(), 36), strconv.FormatInt(info.Size(), 36)}, coding...)
	return `"` + strings.Join(parts, "-") + `"`
}

// mediaType goes by the name alone, so that no file can pass for another kind.
func mediaType(name string) string {
	ext := path.Ext(name)
	if t := knownType(ext); t != "" {
		return t
	}
	if t := mime.TypeByExtension(strings.ToLower(ext)); t != "" {
		return t
	}
	return "application/octet-stream"
}

// knownType is the type of the common kinds, which do not depend on the machine's
// tables.
func knownType(ext string) string {
	switch strings.ToLower(ext) {
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
	case ".xml":
		return "application/xml"
	case ".pdf":
		return "application/pdf"
	case ".svg":
		return "image/svg+xml"
	case ".png":
		return "image/png"
	case ".jpg", ".jpeg":
		return "image/jpeg"
	case ".gif":
		return "image/gif"
	case ".webp":
		return "image/webp"
	case ".avif":
		return "image/avif"
	case ".ico":
		return "image/x-icon"
	case ".woff":
		return "font/woff"
	case ".woff2":
		return "font/woff2"
	case ".ttf":
		return "font/ttf"
	case ".mp3":
		return "audio/mpeg"
	case ".mp4":
		return "video/mp4"
	case ".webm":
		return "video/webm"
	case ".wasm":
		return "application/wasm"
	case ".webmanifest":
		return "application/manifest+json"
	}
	return ""
}
