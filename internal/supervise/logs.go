package supervise

import (
	"context"
	"fmt"

	"fairlead/internal/supervise/logfile"
)

// Line is one line of an instance's output.
type Line = logfile.Line

// Logs gives the output of a service's instances to emit, those that ended not
// long ago too, merged by time: the last tail lines of all together (negative:
// all that is kept), and with follow what comes, of new instances too, until ctx ends.
// instance names one of them, "" all. It works whether or not the supervisor is
// started. An error of emit ends it and is returned.
func (s *Supervisor) Logs(ctx context.Context, service, instance string, follow bool, tail int, emit func(Line) error) error {
	s.mu.Lock()
	svc := s.services[service]
	s.mu.Unlock()
	if svc == nil && (!validID(service) || !logfile.Exist(s.logDir(service))) {
		return fmt.Errorf("read logs: %w", &UnknownError{Service: service})
	}
	if instance != "" && !validID(instance) {
		return fmt.Errorf("read logs: there is no instance %q", instance)
	}
	err := logfile.Read(ctx, logfile.Query{Dir: s.logDir(service), Instance: instance, Tail: tail, Follow: follow}, emit)
	if err != nil {
		return fmt.Errorf("read logs of %s: %w", service, err)
	}
	return nil
}
