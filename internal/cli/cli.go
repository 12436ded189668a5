package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"fairlead/internal/control"
	"fairlead/internal/node"
	"fairlead/internal/system"
)

// Version is the version of this program. A build may set another one
// (-ldflags "-X fairlead/internal/cli.Version=...").
var Version = "0.1.0"

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// Main runs the verb in args, args[0] being the program's name, and returns the
// exit code. The word keeper runs the keeper of a node instead, which is how a
// node starts it.
func Main(args []string, in io.Reader, out, errs io.Writer) int {
	if len(args) > 1 && args[1] == "keeper" {
		return node.KeeperMain(args[2:])
	}
	a := newApp(in, out, errs, os.Getenv)
	a.start = func(o node.Options) (runner, error) {
		n, err := node.New(o)
		if err != nil {
			return nil, err
		}
		return n, nil
	}
	if len(args) > 0 {
		args = args[1:]
	}
	return a.main(args)
}

// app is one run of the command.
type app struct {
	in   io.Reader
	out  *screen
	errs *screen
	now  func() time.Time
	// start makes the node that up runs.
	start func(node.Options) (runner, error)
	// phase says how far a node is that runs already.
	phase func(*node.RunningError) control.Phase
	// signals delivers what asks up to stop.
	signals func(...os.Signal) (<-chan os.Signal, func())

	// Flags of every verb.
	file string
	data string
	json bool
}

func newApp(in io.Reader, out, errs io.Writer, env func(string) string) *app {
	return &app{
		in: in, out: newScreen(out, env), errs: newScreen(errs, env), now: time.Now, phase: phaseOf,
		signals: func(list ...os.Signal) (<-chan os.Signal, func()) {
			ch := make(chan os.Signal, 4)
			signal.Notify(ch, list...)
			return ch, func() { signal.Stop(ch) }
		},
	}
}

func (a *app) main(args []string) int {
	root := a.root()
	root.SetArgs(append([]string{}, args...)) // nil would mean those of the process
	root.SetIn(a.in)
	root.SetOut(a.out.w)
	root.SetErr(a.errs.w)
	err := root.ExecuteContext(context.Background())
	if err == nil {
		return exitDone
	}
	// The flags may not have been read when they are what is wrong.
	for _, arg := range args {
		a.json = a.json || arg == "--json"
	}
	return a.report(err)
}

// usageError is wrong usage; hint says what would be right.
type usageError struct{ problem, hint string }

func (e *usageError) Error() string { return e.problem }

// exitError ends the command with a code; what there is to say was said.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit %d", e.code) }

// report shows err and returns the exit code that it means.
func (a *app) report(err error) int {
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	shown, code := control.ErrorFrom(err), exitFailed
	if e, ok := errors.AsType[*usageError](err); ok {
		shown, code = &control.Error{Code: "usage", Message: e.problem, Hint: e.hint}, exitUsage
	}
	if e, ok := errors.AsType[*node.RunningError](err); ok {
		shown, code = a.running(e), exitUsage // there is nothing to start
	}
	if e, ok := errors.AsType[*betweenError](err); ok {
		shown = &control.Error{Code: "busy", Message: e.Error(), Hint: "try again in a moment"}
	}
	if _, ok := errors.AsType[*system.EnvironmentError](err); ok {
		code = exitUsage
	}
	findings, ofFile := errors.AsType[system.Findings](err)
	if ofFile {
		code = exitUsage
	}
	if errors.Is(err, control.ErrNotRunning) {
		shown.Code = "not_running"
	}
	if errors.Is(err, context.Canceled) {
		shown.Message = "interrupted"
	}
	lines := []string{a.errs.style(red, "fairlead:") + " " + shown.Message}
	if shown.Hint != "" {
		lines = append(lines, "  "+shown.Hint)
	}
	if ofFile {
		lines = renderFindings(a.errs, findings)
	}
	// Where errors cannot be written, the exit code is what is left.
	if a.json {
		_ = a.errs.json(map[string]any{"error": shown})
	} else {
		_ = a.errs.lines(lines...)
	}
	return code
}

// running is what up says of a system that runs already. A node that stops says
// so, or takes no verbs any more.
func (a *app) running(e *node.RunningError) *control.Error {
	shown := &control.Error{
		Code: "running", Message: runningText(e, a.now()),
		Hint: "look at it with: fairlead status; end it with: fairlead down",
	}
	if a.phase(e) == control.PhaseStopping {
		shown.Message = fmt.Sprintf("it is stopping: process %d", e.PID)
		shown.Hint = "try again when it has ended"
	}
	return shown
}

// phaseOf asks a node how far it is.
func phaseOf(e *node.RunningError) control.Phase {
	c, err := control.Dial(e.Dir)
	switch {
	case errors.Is(err, control.ErrNotRunning) && e.Address != "":
		return control.PhaseStopping // it takes no verbs any more
	case err != nil:
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	st, err := control.Call[control.Empty, control.Status](ctx, c, control.VerbStatus, control.Empty{}, nil)
	if err != nil {
		return ""
	}
	return st.Phase
}

func runningText(e *node.RunningError, now time.Time) string {
	s := fmt.Sprintf("it already runs: process %d, since %s (%s)", e.PID, e.Since.Local().Format(time.DateTime), ago(now.Sub(e.Since)))
	if e.Address != "" {
		s += ", at " + e.Address
	} else {
		s += ", still starting"
	}
	return s
}

func (a *app) root() *cobra.Command {
	showVersion := false
	root := &cobra.Command{
		Use:   "fairlead",
		Short: "Run a whole system of cooperating services from one file",
		Long: `fairlead runs the system that a fairlead.yaml describes: it builds and starts the
services, connects them on one bus, and serves them behind one door. "fairlead up"
runs it in the foreground; the other verbs talk to the one that runs.

The system is the fairlead.yaml in the working folder or the nearest above it,
or the one named with -C.

Exit codes: 0 done, 1 failed, 2 wrong usage or a fault in the file.`,
		Example: `  fairlead up stacks/commerce
  fairlead status
  fairlead logs -f tradeflow`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 0:
				return unknownVerb(cmd, args[0])
			case showVersion:
				return a.version()
			}
			return cmd.Help()
		},
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.Flags().BoolVar(&showVersion, "version", false, "show the version of this program")
	flags := root.PersistentFlags()
	flags.StringVarP(&a.file, "file", "C", "", "folder or file of the system (default: the nearest fairlead.yaml upward)")
	flags.StringVar(&a.data, "data", "", "folder of the system's data (default: .fairlead beside the file)")
	flags.BoolVar(&a.json, "json", false, "write results and errors as JSON")
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(
		a.upCommand(), a.checkCommand(), a.statusCommand(), a.logsCommand(),
		a.startCommand(), a.stopCommand(), a.scaleCommand(), a.restartCommand(),
		a.reloadCommand(), a.revisionsCommand(), a.rollbackCommand(), a.upgradeCommand(), a.downCommand(),
		a.maintenanceCommand(), a.requestCommand(), a.publishCommand(), a.subscribeCommand(), a.queuesCommand(), a.queueCommand(), a.busCommand(), a.backupCommand(), a.restoreCommand(), a.envCommand(), a.banCommand(), a.unbanCommand(), a.bansCommand(), a.versionCommand(),
	)
	for _, cmd := range root.Commands() {
		cmd.SuggestFor = synonyms[cmd.Name()]
	}
	root.SetHelpCommand(helpCommand())
	return root
}

func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [VERB]",
		Short: "Explain a verb",
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			if len(args) == 0 {
				return root.Help()
			}
			of, rest, err := root.Find(args)
			if err != nil || of == root || len(rest) > 0 {
				return unknownVerb(root, args[0])
			}
			return of.Help()
		},
	}
}

// synonyms are what other programs call our verbs.
var synonyms = map[string][]string{
	"ban":         {"block", "deny"},
	"bans":        {"blocked", "banned"},
	"check":       {"validate", "verify", "lint", "config", "test"},
	"down":        {"kill", "quit", "exit", "shutdown"},
	"env":         {"environment", "vars", "variables"},
	"maintenance": {"close", "open"},
	"logs":        {"log", "tail", "output"},
	"reload":      {"apply", "deploy", "update", "build"},
	"request":     {"call", "req", "ask", "send", "publish"},
	"revisions":   {"history", "versions"},
	"rollback":    {"undo", "revert"},
	"status":      {"ps", "ls", "list", "top", "state", "info"},
	"stop":        {"halt", "pause"},
	"unban":       {"unblock", "allow", "pardon"},
	"upgrade":     {"handover", "replace"},
	"up":          {"run", "serve", "boot"},
}

func unknownVerb(root *cobra.Command, verb string) error {
	e := &usageError{problem: fmt.Sprintf("there is no verb %q", verb), hint: "see: fairlead --help"}
	if near := nearVerbs(root, verb); len(near) > 0 {
		e.hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return e
}

// flagError turns what is wrong with a flag into a usage error, with the flag
// that was probably meant.
func flagError(cmd *cobra.Command, err error) error {
	e := &usageError{problem: err.Error(), hint: "see: " + cmd.CommandPath() + " --help"}
	if v, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		e.problem = fmt.Sprintf("--%s takes %s, not %q", v.GetFlag().Name, kindOf(v.GetFlag()), v.GetValue())
	}
	if v, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		e.problem = fmt.Sprintf("--%s needs a value", v.GetFlag().Name)
	}
	if name, ok := strings.CutPrefix(err.Error(), "unknown flag: --"); ok {
		if near := nearFlag(cmd, name); near != "" {
			e.hint = "did you mean --" + near + "?"
		}
	}
	return e
}

// kindOf says what a flag takes.
func kindOf(f *pflag.Flag) string {
	switch f.Value.Type() {
	case "int":
		return "a whole number"
	case "duration":
		if _, days := f.Value.(*span); days {
			return "a time such as 30m, 24h or 7d"
		}
		return "a time such as 500ms, 5s or 1m30s"
	case "bool":
		return "true or false"
	default:
		return "another value"
	}
}

// argsBetween returns a check of the number of arguments that explains itself.
func argsBetween(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		usage := "usage: fairlead " + strings.TrimSuffix(cmd.Use, " [flags]")
		switch {
		case len(args) < least:
			return &usageError{problem: cmd.Name() + " needs " + missing(cmd.Use, len(args)), hint: usage}
		case len(args) > most:
			return &usageError{problem: fmt.Sprintf("%s takes no argument %q", cmd.Name(), args[most]), hint: usage}
		}
		return nil
	}
}

// missing names the argument of a usage line that was not given.
func missing(use string, given int) string {
	for _, word := range strings.Fields(use)[1:] {
		if strings.HasPrefix(word, "[") || strings.HasPrefix(word, "-") {
			continue
		}
		if given == 0 {
			return word
		}
		given--
	}
	return "an argument"
}

// interruptible is a context that a first Ctrl-C ends.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Show the version of this program",
		Example: "  fairlead version --json",
		Args:    argsBetween(0, 0),
		RunE:    func(*cobra.Command, []string) error { return a.version() },
	}
}

func (a *app) version() error {
	v := versionInfo()
	if a.json {
		return a.out.json(v)
	}
	commit := ""
	if v.Commit != "" {
		commit = ", commit " + v.Commit
	}
	return a.out.lines(fmt.Sprintf("fairlead %s (%s, %s%s)", v.Version, v.Go, v.Platform, commit))
}

type version struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Commit   string `json:"commit,omitempty"`
	// Handover is how it takes over from another process, see `fairlead upgrade`.
	Handover int `json:"handover"`
}

func versionInfo() version {
	v := version{Version: Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Handover: node.HandoverProtocol}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	changed := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			v.Commit = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = " with changes"
		}
	}
	if v.Commit != "" {
		v.Commit += changed
	}
	return v
}
