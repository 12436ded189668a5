package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"

	"fairlead/internal/system"
)

// Codes of an [Error]. A node may use others; a client that does not know a
// code treats it like [CodeFailed].
const (
	CodeFailed        = "failed"         // the verb could not do it; the message says why
	CodeFile          = "file"           // the file is at fault; Findings lists where
	CodeNotFound      = "not_found"      // what the request names does not exist
	CodeConflict      = "conflict"       // something else is going on, or the state forbids it
	CodeType          = "type"           // a message does not satisfy the type of its queue
	CodeBadRequest    = "bad_request"    // the request is not what the verb takes
	CodeTooLarge      = "too_large"      // the request is above MaxRequest bytes
	CodeForbidden     = "forbidden"      // the caller may not use this socket
	CodeUnknownMethod = "unknown_method" // this version has no such verb
	CodeClosed        = "closed"         // the node ended, or ends, before it answered
	CodeCancelled     = "cancelled"      // the context of the call ended
	CodeInternal      = "internal"       // a defect of fairlead; its log has the details
)

// Error is a failure that travels from the node to the caller. A handler that
// returns one, wrapped or not, decides what the caller sees; any other error
// arrives as [CodeFailed] with its text.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	// Hint says what to do, "" if there is nothing to say.
	Hint string `json:"hint,omitempty"`
	// Findings are the faults of the file when Code is [CodeFile].
	Findings []Finding `json:"findings,omitempty"`
}

// Finding is one fault of the file, as [system.Finding].
type Finding struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Field   string `json:"field"`
	Problem string `json:"problem"`
	Advice  string `json:"advice,omitempty"`
	Code    string `json:"code,omitempty"`
}

// Error returns the message without the hint.
func (e *Error) Error() string { return e.Message }

// Unwrap gives the findings of the file back as [system.Findings], so that a
// caller handles a fault of the file alike wherever it was found.
func (e *Error) Unwrap() error {
	if len(e.Findings) == 0 {
		return nil
	}
	list := make(system.Findings, len(e.Findings))
	for i, f := range e.Findings {
		list[i] = system.Finding(f)
	}
	return list
}

// ErrorFrom returns what travels for err: an [Error] in its chain (with the text
// of the whole chain), the findings of a file, a context's end, or [CodeFailed]
// with err's text. It returns nil for nil.
func ErrorFrom(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		out := *e
		out.Message = err.Error()
		return &out
	}
	if list, ok := errors.AsType[system.Findings](err); ok {
		e := &Error{Code: CodeFile, Message: err.Error()}
		for _, f := range list {
			e.Findings = append(e.Findings, Finding(f))
		}
		return e
	}
	if e, ok := errors.AsType[*system.EnvironmentError](err); ok {
		return &Error{Code: CodeBadRequest, Message: err.Error(), Hint: e.Advice()}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return &Error{Code: CodeCancelled, Message: err.Error()}
	}
	return &Error{Code: CodeFailed, Message: err.Error()}
}

// status is the HTTP status of an answer that begins with e.
func (e *Error) status() int {
	switch e.Code {
	case CodeNotFound, CodeUnknownMethod:
		return http.StatusNotFound
	case CodeBadRequest, CodeFile:
		return http.StatusBadRequest
	case CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case CodeForbidden:
		return http.StatusForbidden
	case CodeConflict:
		return http.StatusConflict
	case CodeClosed:
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

// ErrNotRunning is what [Dial] returns, as a [*NotRunningError], when no node
// answers on the data folder's socket.
var ErrNotRunning = errors.New("no fairlead runs")

// NotRunningError says for which system no node runs, and how to start one.
type NotRunningError struct {
	Data string // the data folder that was tried
	File string // the system's file, "" if unknown
}

// Error names the system and the command that starts it.
func (e *NotRunningError) Error() string {
	file, moved := e.File, false
	beside := filepath.Base(e.Data) == DataDir
	switch {
	case file == "" && beside:
		file = filepath.Join(filepath.Dir(e.Data), "fairlead.yaml")
	case file == "":
		return fmt.Sprintf("no fairlead runs with its data in %s; start it with: fairlead up --data %s DIR", e.Data, QuoteWord(e.Data))
	default:
		moved = e.Data != filepath.Join(filepath.Dir(file), DataDir)
	}
	up := filepath.Dir(file)
	if filepath.Base(file) != "fairlead.yaml" {
		up = file
	}
	if moved {
		return fmt.Sprintf("no fairlead runs for %s with its data in %s; start it with: fairlead up --data %s %s",
			file, e.Data, QuoteWord(e.Data), QuoteWord(up))
	}
	return fmt.Sprintf("no fairlead runs for %s; start it with: fairlead up %s", file, QuoteWord(up))
}

// Is makes errors.Is(err, ErrNotRunning) true.
func (e *NotRunningError) Is(target error) bool { return target == ErrNotRunning }

// QuoteWord makes s one word of a shell's command line, quoted only where it must be.
func QuoteWord(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r == '/' || r == '.' || r == '-' || r == '_' || r == '+' || r == ',' || r == ':' || r == '@' ||
			r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= 0x80)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
