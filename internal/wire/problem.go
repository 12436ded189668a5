package wire

import (
	"encoding/json"
	"html/template"
	"net/http"
	"strconv"
	"strings"
)

// MediaProblem is the media type of a [Problem] as JSON.
const MediaProblem = "application/problem+json"

// Problem is an error as a client is told it, RFC 9457. Every text in it is for the
// public: no cause, no stack, no address of the inside.
type Problem struct {
	Type      string `json:"type,omitempty"`       // URI of the kind of problem, "" means about:blank
	Title     string `json:"title,omitempty"`      // short, the same for all of this kind; default the status's text
	Status    int    `json:"status"`               // 400 to 599
	Detail    string `json:"detail,omitempty"`     // what is wrong with this request
	Instance  string `json:"instance,omitempty"`   // URI of this occurrence
	RequestID string `json:"request_id,omitempty"` // to find it in the logs

	// Of a message that a queue does not take: its type, and where in the body the
	// fault is (RFC 6901), "" for the whole.
	MessageType string `json:"message_type,omitempty"`
	Pointer     string `json:"pointer,omitempty"`
}

var problemPage = template.Must(template.New("problem").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{.Status}} {{.Title}}</title>
<meta name="color-scheme" content="light dark">
<style>:root{color-scheme:light dark}body{font:1.1em/1.5 system-ui,sans-serif;max-width:40em;margin:4em auto;padding:0 1em}h1{line-height:1.2}p::first-letter{text-transform:uppercase}small{opacity:.7}</style>
<h1>{{.Status}} {{.Title}}</h1>
{{- with .Detail}}
<p>{{.}}</p>
{{- end}}
{{- with .RequestID}}
<p><small>Request <code>{{.}}</code></small></p>
{{- end}}
</html>
`))

// WriteProblem answers r with p: JSON, or a small plain page if the client says in
// Accept that it prefers text/html. It writes the fields of p and nothing of the
// request, the connection or the server, so that no address of the inside gets out
// by it. A status outside 400 to 599 becomes 500, a missing title the status's
// text. Headers that describe another body (Content-Encoding, ETag, ...) are
// removed; all others that w has already stay. The headers must not have been sent.
func WriteProblem(w http.ResponseWriter, r *http.Request, p Problem) {
	if p.Status < 400 || p.Status > 599 {
		p.Status = http.StatusInternalServerError
	}
	if p.Title == "" {
		if p.Title = http.StatusText(p.Status); p.Title == "" {
			p.Title = "Error"
		}
	}
	h := w.Header()
	for _, name := range []string{"Content-Encoding", "Content-Range", "Accept-Ranges", "ETag", "Last-Modified", "Content-Disposition"} {
		h.Del(name)
	}
	var body []byte
	if prefersHTML(r.Header.Values("Accept")) {
		var page strings.Builder
		_ = problemPage.Execute(&page, p) // plain strings into a builder
		body = []byte(page.String())
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	} else {
		body, _ = json.Marshal(p) // strings and an int always have a JSON form
		body = append(body, '\n')
		h.Set("Content-Type", MediaProblem)
	}
	if p.RequestID != "" {
		h.Set(HeaderRequestID, p.RequestID)
	}
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Add("Vary", "Accept")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.Status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // a client that is gone is nothing to report
	}
}

// prefersHTML reports whether Accept ranks text/html above JSON, by the q-values
// and the specificity of RFC 9110, 12.5.1. A tie is for JSON.
func prefersHTML(accept []string) bool {
	html := quality(accept, "text", "html")
	return html > 0 && html > quality(accept, "application", "problem+json") && html > quality(accept, "application", "json")
}

// quality returns the q-value, in thousandths, that the most specific matching
// range gives a media type: 0 if none matches.
func quality(accept []string, typ, subtype string) int {
	q, best := 0, 0
	for _, line := range accept {
		for item := range strings.SplitSeq(line, ",") {
			media, params, _ := strings.Cut(item, ";")
			t, s, ok := strings.Cut(strings.TrimSpace(media), "/")
			if !ok {
				continue
			}
			rank := 0
			switch {
			case strings.EqualFold(t, typ) && strings.EqualFold(s, subtype):
				rank = 3
			case strings.EqualFold(t, typ) && s == "*":
				rank = 2
			case t == "*" && s == "*":
				rank = 1
			}
			if rank <= best {
				continue
			}
			best, q = rank, weight(params)
		}
	}
	return q
}

// weight reads q from the parameters of a media range. What is not a q-value
// counts as 1, the default.
func weight(params string) int {
	for p := range strings.SplitSeq(params, ";") {
		name, value, ok := strings.Cut(strings.TrimSpace(p), "=")
		if !ok || !strings.EqualFold(strings.TrimSpace(name), "q") {
			continue
		}
		f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil || !(f >= 0 && f <= 1) { // also NaN
			return 1000
		}
		return int(f * 1000)
	}
	return 1000
}
