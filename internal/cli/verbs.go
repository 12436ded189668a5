package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"fairlead/internal/control"
	"fairlead/internal/node"
	"fairlead/internal/system"
)

// ask calls a verb of the running node and shows meanwhile what it tells and,
// on a terminal, that it is still waited for.
func ask[Req, Rep any](ctx context.Context, a *app, verb, doing string, req Req) (Rep, error) {
	var none Rep
	c, err := a.dial()
	if err != nil {
		return none, err
	}
	return askOf[Req, Rep](ctx, a, c, verb, doing, req)
}

func askOf[Req, Rep any](ctx context.Context, a *app, c *control.Client, verb, doing string, req Req) (Rep, error) {
	ctx, cancel := interruptible(ctx)
	defer cancel()
	w := a.wait(doing)
	defer w.end()
	return control.Call[Req, Rep](ctx, c, verb, req, w.tell)
}

func (a *app) checkCommand() *cobra.Command {
	var environment string
	cmd := &cobra.Command{
		Use:   "check [DIR]",
		Short: "Check the file without running anything",
		Long: `Reads the file as a whole, with every environment in it, and lists each fault with
its place and what to do about it. Nothing is built, started or changed.`,
		Example: `  fairlead check
  fairlead check stacks/commerce -e production --json`,
		Args: argsBetween(0, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			t, err := a.findFile(first(args))
			if err != nil {
				return err
			}
			sys, err := system.Load(t.File, system.Options{Environment: environment})
			if err != nil {
				return err
			}
			if a.json {
				var warnings []string
				for _, w := range sys.Warnings {
					warnings = append(warnings, w.String())
				}
				return a.out.json(checked{
					File: sys.File, System: sys.Name, Environment: sys.Environment, Services: len(sys.Services),
					Routes: len(sys.Routes), Secrets: len(sys.Secrets), Databases: len(sys.Databases),
					Warnings: warnings,
				})
			}
			return a.out.lines(append(renderWarnings(a.out, sys.Warnings), renderCheck(sys, brief(t.File)))...)
		},
	}
	cmd.Flags().StringVarP(&environment, "environment", "e", "", "environment to merge in")
	return cmd
}

type checked struct {
	File        string `json:"file"`
	System      string `json:"system"`
	Environment string `json:"environment,omitempty"`
	Services    int    `json:"services"`
	Routes      int    `json:"routes"`
	Secrets     int    `json:"secrets"`
	Databases   int    `json:"databases"`

	Warnings []string `json:"warnings,omitempty"`
}

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show every service and its instances",
		Long: `Shows each service with the instances that are ready and wanted, and each instance
with its state, since when, how often it was restarted and how many requests it
served. Below stands why something is not ready, and what was decided by hand.`,
		Example: `  fairlead status
  fairlead status --json | jq '.services[] | select(.ready < .wanted)'`,
		Args: argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := ask[control.Empty, control.Status](cmd.Context(), a, control.VerbStatus, "", control.Empty{})
			if err != nil {
				return err
			}
			if a.json {
				return a.out.json(st)
			}
			return a.out.lines(renderStatus(a.out, st, a.now())...)
		},
	}
}

func (a *app) logsCommand() *cobra.Command {
	var req control.LogsRequest
	var times bool
	cmd := &cobra.Command{
		Use:   "logs [SERVICE]",
		Short: "Show what the instances of a service, or of all, wrote",
		Long: `Shows the output of all instances of a service, or of all services, merged by time,
each line after the name of its instance; "!" instead of "|" marks the standard
error of an instance that writes to both. With -f it goes on with new lines, through
rotations and replaced instances, until Ctrl-C. Without -f the system need not run.`,
		Example: `  fairlead logs tradeflow
  fairlead logs -f -n 20
  fairlead logs --instance tradeflow-7 -n -1 tradeflow > tradeflow-7.log`,
		Args: argsBetween(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Service = first(args)
			t, err := a.find()
			if err != nil {
				return err
			}
			ctx, cancel := interruptible(cmd.Context())
			defer cancel()
			view := newLogView(a.out, times)
			show := func(l control.Line) error {
				if a.json {
					return a.out.jsonLine(l)
				}
				return a.out.lines(view.line(l))
			}
			c, err := t.dial()
			switch {
			case err == nil:
				err = stream(ctx, t, c, req, show)
			case !req.Follow && silent(err):
				err = node.ReadLogs(ctx, t.Data, req, show)
			}
			if req.Follow && errors.Is(err, context.Canceled) {
				return nil // Ctrl-C is how following ends
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&req.Follow, "follow", "f", false, "go on with new lines")
	flags.IntVarP(&req.Tail, "lines", "n", 100, "last lines to begin with, of all instances together; -1 for all")
	flags.StringVarP(&req.Instance, "instance", "i", "", "of one instance only")
	flags.BoolVarP(&times, "timestamps", "t", false, "show the time of each line")
	return cmd
}

// resumeTail is how many lines `logs -f` asks another process for, to find where it
// was.
const resumeTail = 1000

// stream shows what the node streams. Following goes on with the process that runs
// the system when an upgrade has ended the one that was asked.
func stream(ctx context.Context, t target, c *control.Client, req control.LogsRequest, show func(control.Line) error) error {
	shown := map[string]control.Line{} // the last of each instance
	resumed := false
	each := func(l control.Line) error {
		if last := shown[l.Instance]; resumed && (l.Time.Before(last.Time) || l == last) {
			return nil
		}
		shown[l.Instance] = l
		return show(l)
	}
	for {
		err := control.Stream(ctx, c, control.VerbLogs, req, each)
		if e, ok := errors.AsType[*control.Error](err); !req.Follow || ctx.Err() != nil || err != nil && (!ok || e.Code != control.CodeClosed) {
			return err
		}
		// Without another process there is nobody to ask.
		next, dialed := t.dial()
		if dialed != nil {
			return err
		}
		c, req.Tail, resumed = next, resumeTail, true
	}
}

// silent reports whether err means that no node takes verbs.
func silent(err error) bool {
	_, between := errors.AsType[*betweenError](err)
	return between || errors.Is(err, control.ErrNotRunning)
}

func (a *app) startCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "start SERVICE",
		Short: "Start a service that was stopped",
		Long: `Takes back what "fairlead stop" recorded and returns when as many instances as the
file says are ready, or with what keeps them from it.`,
		Example: "  fairlead start tradeflow",
		Args:    argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.startStop(cmd, control.VerbStart, "starting", args[0])
		},
	}
}

func (a *app) stopCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stop SERVICE",
		Short: "Stop a service, and keep it stopped",
		Long: `Takes the instances of a service out of the traffic, waits for their open requests
and stops them. This is recorded: the service stays stopped, also through "down"
and "up", until "fairlead start", or until the file changes its replicas.`,
		Example: "  fairlead stop tradeflow",
		Args:    argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.startStop(cmd, control.VerbStop, "stopping", args[0])
		},
	}
}

func (a *app) startStop(cmd *cobra.Command, verb, doing, service string) error {
	st, err := ask[control.ServiceRequest, control.ServiceStatus](cmd.Context(), a, verb, doing+" "+service, control.ServiceRequest{Service: service})
	if err != nil {
		return err
	}
	if a.json {
		return a.out.json(st)
	}
	return a.out.lines(withTraffic(a.out, []string{renderService(st)}, st.Traffic)...)
}

func (a *app) scaleCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "scale SERVICE N",
		Short: "Change how many instances of a service run",
		Long: `Starts or stops instances of a service until N run, and returns when they are ready,
or with what keeps them from it. This is recorded: it stays so, also through "down"
and "up", until "fairlead start", or until the file changes the service's replicas.`,
		Example: "  fairlead scale tradeflow 4",
		Args:    argsBetween(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.Atoi(args[1])
			if err != nil || n < 0 || n > system.MaxReplicas {
				return &usageError{problem: fmt.Sprintf("a service has 0 to %d instances, not %q", system.MaxReplicas, args[1]), hint: "usage: fairlead scale SERVICE N"}
			}
			req := control.ScaleRequest{Service: args[0], Replicas: n}
			st, err := ask[control.ScaleRequest, control.ServiceStatus](cmd.Context(), a, control.VerbScale, "scaling "+req.Service, req)
			if err != nil {
				return err
			}
			if a.json {
				return a.out.json(st)
			}
			return a.out.lines(withTraffic(a.out, []string{renderService(st)}, st.Traffic)...)
		},
	}
}

func (a *app) restartCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "restart SERVICE",
		Short: "Replace the instances of a service, one by one",
		Long: `Starts a new instance, waits until it is ready, gives it the traffic, drains the old
one and stops it; then the next. It returns when all new instances take traffic,
with a receipt of the requests that the old and the new ones served meanwhile, and
of what went through the door. If a new one does not get ready, the old ones go on
serving.`,
		Example: "  fairlead restart tradeflow",
		Args:    argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := ask[control.ServiceRequest, control.Receipt](cmd.Context(), a, control.VerbRestart, "restarting "+args[0], control.ServiceRequest{Service: args[0]})
			if err != nil {
				return err
			}
			if a.json {
				return a.out.json(r)
			}
			return a.out.lines(withTraffic(a.out, []string{renderReceipt(a.out, r)}, r.Traffic)...)
		},
	}
}

func (a *app) reloadCommand() *cobra.Command {
	var req control.ReloadRequest
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Apply the file as it is now",
		Long: `Checks the file, builds and starts everything that is new or changed beside what
runs, swaps the routes once all of it is ready, then drains and stops what was
replaced. If anything fails before the swap, nothing changes. --dry-run shows the
difference only.`,
		Example: `  fairlead reload --dry-run
  fairlead reload
  fairlead reload -e production`,
		Args: argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := ask[control.ReloadRequest, control.ReloadReply](cmd.Context(), a, control.VerbReload, "reloading", req)
			if err != nil {
				return err
			}
			if a.json {
				return a.out.json(r)
			}
			return a.out.lines(renderReload(a.out, r, req.DryRun)...)
		},
	}
	cmd.Flags().BoolVar(&req.ForceTypes, "force-types", false, "also if the change of a type breaks those who rely on it")
	cmd.Flags().BoolVar(&req.DryRun, "dry-run", false, "show what would change")
	cmd.Flags().StringVarP(&req.Environment, "environment", "e", "", "environment to merge in (default: the one that runs)")
	return cmd
}

func (a *app) revisionsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "revisions",
		Short:   "List the versions of the file that were applied",
		Example: "  fairlead revisions",
		Args:    argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := ask[control.Empty, []control.Revision](cmd.Context(), a, control.VerbRevisions, "", control.Empty{})
			if err != nil {
				return err
			}
			if a.json {
				return a.out.json(map[string]any{"revisions": control.List[control.Revision](list)})
			}
			return a.out.lines(renderRevisions(a.out, list, a.now())...)
		},
	}
}

func (a *app) rollbackCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rollback [REVISION]",
		Short: "Apply an earlier revision again",
		Long: `Applies a revision that was applied before, with what was built for it, as a new
revision: by default the one before the current. It goes like a reload. The file is
not touched; the next reload applies it as it is.`,
		Example: `  fairlead rollback
  fairlead rollback 4`,
		Args: argsBetween(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var req control.RollbackRequest
			if len(args) == 1 {
				n, err := strconv.Atoi(args[0])
				if err != nil || n < 1 {
					return &usageError{problem: fmt.Sprintf("a revision is a number, not %q", args[0]), hint: "see: fairlead revisions"}
				}
				req.Revision = n
			}
			r, err := ask[control.RollbackRequest, control.ReloadReply](cmd.Context(), a, control.VerbRollback, "rolling back", req)
			if err != nil {
				return err
			}
			if a.json {
				return a.out.json(r)
			}
			return a.out.lines(renderReload(a.out, r, false)...)
		},
	}
}

func (a *app) downCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Stop the system in order",
		Long: `Stops the system that "fairlead up" runs, wherever that runs, and returns when its
last process has ended. If nothing runs, there is nothing to do.`,
		Example: "  fairlead down",
		Args:    argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := a.find()
			if err != nil {
				return err
			}
			c, err := t.dial()
			if e, ok := errors.AsType[*betweenError](err); ok && e.node.Address != "" {
				return a.downAlready(e)
			}
			if errors.Is(err, control.ErrNotRunning) {
				if a.json {
					return a.out.json(control.DownReply{})
				}
				return a.out.lines("nothing runs for " + brief(cmp.Or(t.File, t.Data)))
			}
			if err != nil {
				return err
			}
			st, err := askOf[control.Empty, control.Status](cmd.Context(), a, c, control.VerbStatus, "", control.Empty{})
			if err != nil {
				return err
			}
			ended := processEnd(st.PID)
			defer ended.close()
			r, err := askOf[control.Empty, control.DownReply](cmd.Context(), a, c, control.VerbDown, "stopping", control.Empty{})
			if err != nil {
				return err
			}
			if err := ended.wait(downWait); err != nil {
				return err
			}
			if a.json {
				return a.out.json(r)
			}
			return a.out.lines(fmt.Sprintf("%s: stopped, %s", st.System, plural(r.Stopped, "instance")))
		},
	}
}

// downAlready waits for a node that somebody else stops.
func (a *app) downAlready(e *betweenError) error {
	w := a.wait("stopping")
	defer w.end()
	ended := processEnd(e.node.PID)
	defer ended.close()
	if err := ended.wait(downWait); err != nil {
		return err
	}
	if a.json {
		return a.out.json(control.DownReply{})
	}
	return a.out.lines("stopped; somebody else had asked for it")
}

// downWait bounds the wait for the node's process after all instances ended.
const downWait = 30 * time.Second

// ending is a process whose end is waited for, also when nobody reaps it.
type ending struct{ pid, fd int }

// processEnd takes hold of a process while it surely is the one that was meant.
func processEnd(pid int) ending {
	if pid == os.Getpid() {
		return ending{pid: pid, fd: -1} // a node embedded in us
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return ending{pid: pid, fd: -1} // it has ended, or is out of sight
	}
	return ending{pid: pid, fd: fd}
}

func (e ending) wait(most time.Duration) error {
	if e.fd < 0 {
		return nil
	}
	end := time.Now().Add(most)
	for {
		left := max(time.Until(end), 0)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(e.fd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for process %d: %w", e.pid, err)
		case n == 0:
			return fmt.Errorf("wait for process %d: all instances have ended, but it goes on after %v", e.pid, most)
		default:
			return nil
		}
	}
}

func (e ending) close() {
	if e.fd >= 0 {
		_ = unix.Close(e.fd) // was only polled
	}
}

func (a *app) envCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "env SERVICE",
		Short: "Show what the instances of a service are given",
		Long: `Lists the environment variables that each instance of a service is given, and where
each comes from. Values of secrets are never shown.`,
		Example: "  fairlead env tradeflow",
		Args:    argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := ask[control.ServiceRequest, control.EnvReply](cmd.Context(), a, control.VerbEnv, "", control.ServiceRequest{Service: args[0]})
			if err != nil {
				return err
			}
			if a.json {
				return a.out.json(r)
			}
			return a.out.lines(renderEnv(a.out, r)...)
		},
	}
}
