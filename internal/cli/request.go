package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fairlead/internal/control"
)

// maxData bounds what request sends: the request to the node holds it in base64.
const maxData = control.MaxRequest/4*3 - 4096

func (a *app) requestCommand() *cobra.Command {
	req := control.BusRequest{}
	var headers []string
	cmd := &cobra.Command{
		Use:   "request SUBJECT [DATA|-]",
		Short: "Send a request over the bus, as the operator",
		Long: `Sends a request to a subject and shows the reply's data, indented if it is JSON.
DATA is sent as it is; "-" reads it from the standard input. A service with the
format nest is asked in NestJS's envelope; its pattern may be JSON. If the service
answers with an error, that goes to the standard error and the exit code is 1.`,
		Example: `  fairlead request model.countries
  fairlead request tradeflow.find '{"reporter": "842"}'
  fairlead request model.commodities - < search.json
  fairlead request '{"area":"tradeflow","cmd":"findAll"}' '{}' --nest`,
		Args: argsBetween(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Subject = args[0]
			var err error
			if req.Data, req.Headers, err = a.message(args[1:], headers); err != nil {
				return err
			}
			r, err := ask[control.BusRequest, control.BusReply](cmd.Context(), a, control.VerbRequest, "waiting for a reply", req)
			if err != nil {
				return err
			}
			return a.showReply(r)
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&req.Timeout, "timeout", 5*time.Second, "how long to wait for the reply")
	flags.StringArrayVarP(&headers, "header", "H", nil, "header of the request, 'Name: value'; may be repeated")
	flags.BoolVar(&req.Nest, "nest", false, "use NestJS's envelope whatever the file says")
	return cmd
}

// message reads what is to be sent: data, if it is given, and headers.
func (a *app) message(data, headers []string) ([]byte, map[string]string, error) {
	parsed, err := parseHeaders(headers)
	if err != nil || len(data) == 0 {
		return nil, parsed, err
	}
	read, err := a.requestData(data[0])
	return read, parsed, err
}

func parseHeaders(list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	headers := map[string]string{}
	for _, h := range list {
		name, value, ok := strings.Cut(h, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, &usageError{problem: fmt.Sprintf("a header is 'Name: value', not %q", h), hint: "see: fairlead request --help"}
		}
		headers[name] = strings.TrimSpace(value)
	}
	return headers, nil
}

func (a *app) requestData(arg string) ([]byte, error) {
	data := []byte(arg)
	if arg == "-" {
		var err error
		if data, err = io.ReadAll(io.LimitReader(a.in, maxData+1)); err != nil {
			return nil, fmt.Errorf("read data: %w", err)
		}
	}
	if len(data) > maxData {
		return nil, &usageError{
			problem: fmt.Sprintf("the data is above %d KiB", maxData>>10),
			hint:    "a route to a service over HTTP takes more",
		}
	}
	return data, nil
}

func (a *app) showReply(r control.BusReply) error {
	if a.json {
		if err := a.out.json(replyJSON(r)); err != nil {
			return err
		}
		if r.Error != "" || r.Code != "" {
			return &exitError{exitFailed}
		}
		return nil
	}
	body := pretty(r.Data, a.out)
	if r.Error == "" && r.Code == "" {
		return a.out.write(body)
	}
	text := harmless(r.Error, false)
	if r.Code != "" {
		text = strings.TrimSuffix(r.Code+": "+text, ": ")
	}
	_ = a.errs.lines(a.errs.style(red, "fairlead:") + " the service answered with an error: " + text) // nowhere else to say it
	_ = a.errs.write(pretty(r.Data, a.errs))
	return &exitError{exitFailed}
}

// shownReply is a reply for a program: the data as JSON where it is JSON.
type shownReply struct {
	Data    json.RawMessage     `json:"data,omitempty"`
	Text    string              `json:"text,omitempty"`
	Bytes   []byte              `json:"bytes,omitempty"`
	Headers map[string][]string `json:"headers,omitempty"`
	Error   string              `json:"error,omitempty"`
	Code    string              `json:"code,omitempty"`
}

func replyJSON(r control.BusReply) shownReply {
	s := shownReply{Headers: r.Headers, Error: r.Error, Code: r.Code}
	switch {
	case json.Valid(r.Data):
		s.Data = r.Data
	case bytes.Equal(bytes.ToValidUTF8(r.Data, nil), r.Data):
		s.Text = string(r.Data)
	default:
		s.Bytes = r.Data
	}
	return s
}

// pretty indents JSON and ends it with a line end. Other data stays as it is,
// but where it goes to a terminal.
func pretty(data []byte, s *screen) []byte {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.TrimSpace(data), "", "  "); err == nil {
		b.WriteByte('\n')
		return b.Bytes()
	}
	if !s.live {
		return data
	}
	for l := range strings.Lines(string(data)) {
		b.WriteString(harmless(strings.TrimRight(l, "\r\n"), s.color) + "\n")
	}
	return b.Bytes()
}
