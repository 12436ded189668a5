package node

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"time"

	"fairlead/internal/system/asyncapi"
	"fairlead/internal/wire"
)

// tellCatalogue answers with the AsyncAPI document of the revision that is served.
func (n *Node) tellCatalogue(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "ask with GET", http.StatusMethodNotAllowed)
		return
	}
	rev := n.current()
	if rev == nil {
		http.Error(w, "nothing is served yet", http.StatusServiceUnavailable)
		return
	}
	text, err := asyncapi.Write(rev.sys)
	if err != nil {
		n.log.ErrorContext(r.Context(), "write catalogue", wire.KeyError, err)
		http.Error(w, "the catalogue cannot be written", http.StatusInternalServerError)
		return
	}
	sum := sha256.Sum256(text)
	h := w.Header()
	h.Set("Content-Type", asyncapi.MediaType)
	h.Set("Cache-Control", "no-cache")
	h.Set("Etag", `"`+hex.EncodeToString(sum[:8])+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(text))
}
