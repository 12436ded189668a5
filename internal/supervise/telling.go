package supervise

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
)

// trouble is how programs of most languages name what ended them.
var trouble = regexp.MustCompile(`(?i)(error|panic|fatal|exception)\b`)

// tellingLimit bounds the line that a reason quotes, in bytes.
const tellingLimit = 300

// telling picks the line of a program's last output that most likely says why it
// ended: the last one that speaks of an error (a stack or a version often
// follows it), else the last one. Of a structured log line it keeps the message
// and the error.
func telling(output []string) string {
	if len(output) == 0 {
		return ""
	}
	line := output[len(output)-1]
	for _, l := range output {
		if trouble.MatchString(l) {
			line = l
		}
	}
	line = strings.TrimSpace(line)
	var entry struct {
		Message string `json:"msg"`
		Error   any    `json:"error"`
	}
	if strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &entry) == nil && entry.Message != "" {
		line = entry.Message
		if cause, ok := entry.Error.(string); ok && cause != "" {
			line += ": " + strings.ReplaceAll(cause, "\n", "; ") // joined errors stand on a line each
		}
	}
	if len(line) > tellingLimit {
		line = strings.ToValidUTF8(line[:tellingLimit], "") + " ..."
	}
	return line
}

// quoted puts a line of output into quotes, escaping what has to be; a line that
// holds quotes itself stays readable in others.
func quoted(line string) string {
	if strings.Contains(line, `"`) && strconv.CanBackquote(line) {
		return "`" + line + "`"
	}
	return strconv.Quote(line)
}
