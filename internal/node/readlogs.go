package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"fairlead/internal/control"
	"fairlead/internal/supervise"
)

// ReadLogs gives the output of instances to emit, as the verb logs does, from
// the files in the data folder: for a system that does not run. The error is a
// [control.Error] if there is nothing of the service or instance that is named.
func ReadLogs(ctx context.Context, data string, req control.LogsRequest, emit func(control.Line) error) error {
	q := supervise.LogQuery{Service: req.Service, Instance: req.Instance, Follow: req.Follow, Tail: req.Tail}
	err := supervise.ReadLogs(ctx, data, q, func(l supervise.Line) error {
		return emit(control.Line{Time: l.Time, Instance: l.Instance, Stream: l.Stream, Text: l.Text})
	})
	if _, unknown := errors.AsType[*supervise.UnknownError](err); unknown {
		e := &control.Error{Code: control.CodeNotFound, Message: fmt.Sprintf("there is no output of a service %q", req.Service)}
		if names := logged(data); len(names) > 0 {
			e.Hint = "there is some of " + strings.Join(names, ", ")
		}
		return e
	}
	return logsError(req, err)
}

// logsError makes a person's error of what reading logs returned.
func logsError(req control.LogsRequest, err error) error {
	if errors.Is(err, supervise.ErrNoInstance) {
		return &control.Error{
			Code: control.CodeNotFound, Message: fmt.Sprintf("there is no output of an instance %q", req.Instance),
			Hint: "the output of those that ended long ago is removed; fairlead logs without -i shows all that is kept",
		}
	}
	return err
}

// logged names the services of which there is output.
func logged(data string) []string {
	entries, err := os.ReadDir(filepath.Join(data, "logs"))
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}
