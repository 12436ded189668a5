// Package web holds what fairlead gives to pages: fairlead.js, one file that needs no
// build step. It serves it and nothing else.
package web

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the file
	"encoding/hex"
	"net/http"
	"time"
)

//go:embed fairlead.js
var client []byte

// Client serves fairlead.js, whatever the path of a request.
func Client() http.Handler {
	sum := sha256.Sum256(client)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "the method is not allowed here", http.StatusMethodNotAllowed)
			return
		}
		h := w.Header()
		h.Set("Content-Type", "text/javascript; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Etag", tag)
		http.ServeContent(w, r, "fairlead.js", time.Time{}, bytes.NewReader(client))
	})
}
