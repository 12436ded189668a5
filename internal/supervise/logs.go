package supervise

import (
	"context"
	"fmt"
	"path/filepath"

	"fairlead/internal/supervise/logfile"
)

// Line is one line of an instance's output.
type Line = logfile.Line

// ErrNoInstance says that there is no output of the instance that was named.
var ErrNoInstance = logfile.ErrNoInstance

// Logs is [ReadLogs] for the data folder of the supervisor; a service that has
// written nothing yet is known too. It works whether or not the supervisor is
// started.
func (s *Supervisor) Logs(ctx context.Context, service, instance string, follow bool, tail int, emit func(Line) error) error {
	s.mu.Lock()
	known := s.services[service] != nil
	s.mu.Unlock()
	return readLogs(ctx, s.opts.Dir, known, LogQuery{service, instance, follow, tail}, emit)
}

// LogQuery says what [ReadLogs] reads.
type LogQuery struct {
	Service  string // "": all
	Instance string // one of the service's; "": all
	Follow   bool   // go on with what comes, of new instances too, until ctx ends
	Tail     int    // last lines of all together to begin with; negative: all that is kept
}

// ReadLogs gives the output of instances to emit, of those that ended not long
// ago too, merged by time. dir is a data folder; its system need not run. The
// error is an [UnknownError] or [ErrNoInstance] if there is nothing of what is
// named; one of emit ends it and is returned.
func ReadLogs(ctx context.Context, dir string, q LogQuery, emit func(Line) error) error {
	return readLogs(ctx, dir, false, q, emit)
}

func readLogs(ctx context.Context, dir string, known bool, q LogQuery, emit func(Line) error) error {
	dir = filepath.Join(dir, "logs")
	if q.Service != "" {
		dir = filepath.Join(dir, q.Service)
		if !known && (!validID(q.Service) || !logfile.Exist(dir)) {
			return fmt.Errorf("read logs: %w", &UnknownError{Service: q.Service})
		}
	}
	err := logfile.Read(ctx, logfile.Query{Dir: dir, All: q.Service == "", Instance: q.Instance, Tail: q.Tail, Follow: q.Follow}, emit)
	if err != nil {
		return fmt.Errorf("read logs: %w", err)
	}
	return nil
}
