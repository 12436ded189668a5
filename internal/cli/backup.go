package cli

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"fairlead/internal/control"
	"fairlead/internal/node"
	"fairlead/internal/system"
)

func (a *app) backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup bus [FILE]",
		Short: "Write what the bus keeps into a file",
		Long: `Writes what the bus keeps into one file, while the system runs:
see "fairlead backup bus --help".`,
		Example: `  fairlead backup bus`,
		Args:    argsBetween(0, 0),
		RunE: func(*cobra.Command, []string) error {
			return &usageError{problem: "what shall be backed up?", hint: "there is the bus: fairlead backup bus"}
		},
	}
	cmd.AddCommand(a.backupBusCommand())
	return cmd
}

func (a *app) backupBusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "bus [FILE]",
		Short: "Write all queues with their consumers into a file",
		Long: `Writes all streams of the bus with their consumers into one file, while the system
runs: every queue, the dead letters, and what fairlead itself remembers. Each is taken
as it is at one moment. The file is synced and read again before the verb returns. It
is readable for its owner only, and as secret as the messages in it. Without FILE it is
named after the system and the time, in the working folder.`,
		Example: `  fairlead backup bus
  fairlead backup bus /var/backups/bus.tar --json`,
		Args: argsBetween(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := first(args)
			if name == "" {
				st, err := ask[control.Empty, control.Status](cmd.Context(), a, control.VerbStatus, "", control.Empty{})
				if err != nil {
					return err
				}
				name = st.System + "-bus-" + a.now().UTC().Format("20060102T150405Z") + ".tar"
			}
			file, err := filepath.Abs(name)
			if err != nil {
				return fmt.Errorf("find %s: %w", name, err)
			}
			b, err := ask[control.BackupRequest, control.Backup](cmd.Context(), a, control.VerbBackupBus, "backing up the bus", control.BackupRequest{File: file})
			if err != nil {
				return err
			}
			if a.json {
				return a.out.json(b)
			}
			return a.out.lines(fmt.Sprintf("%s: %s in %s, %s; checked", brief(b.File), plural(int(b.Messages), "message"), plural(len(b.Streams), "stream"), byteText(uint64(b.Size))))
		},
	}
}

func (a *app) restoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "restore bus FILE",
		Short:   "Take what the bus keeps from a backup",
		Long:    `Replaces what the bus keeps by a backup: see "fairlead restore bus --help".`,
		Example: `  fairlead restore bus orders-bus-20270131T120000Z.tar`,
		Args:    argsBetween(0, 0),
		RunE: func(*cobra.Command, []string) error {
			return &usageError{problem: "what shall be restored?", hint: "there is the bus: fairlead restore bus FILE"}
		},
	}
	cmd.AddCommand(a.restoreBusCommand())
	return cmd
}

func (a *app) restoreBusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "bus FILE",
		Short: "Replace what the bus keeps by a backup, while the system is down",
		Long: `Replaces what the bus keeps by what a backup holds. The system must be down. The file is
read whole first, and what was made of it is compared with what it says. What was there
is moved aside and never deleted. What fairlead itself remembers there is not taken
back: users of the bus that were revoked since stay revoked.`,
		Example: `  fairlead restore bus orders-bus-20270131T120000Z.tar`,
		Args:    argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := a.find()
			if err != nil {
				return err
			}
			if sys, err := system.Load(t.File, system.Options{}); err == nil && sys.Bus.Server != nil {
				return &usageError{problem: "the bus keeps its data on a server elsewhere", hint: "restore it there: nats account restore"}
			}
			file, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("find %s: %w", args[0], err)
			}
			ctx, cancel := interruptible(cmd.Context())
			defer cancel()
			w := a.wait("restoring the bus")
			b, err := node.RestoreBus(ctx, t.Data, file, func(text string) {
				w.tell(control.Event{Time: time.Now(), Kind: control.EventInfo, Text: text})
			})
			w.end()
			if err != nil {
				return err
			}
			if a.json {
				return a.out.json(b)
			}
			lines := []string{fmt.Sprintf("the bus has what %s had on %s: %s in %s", b.System, b.Made.Local().Format(time.DateTime), plural(int(b.Messages), "message"), plural(len(b.Streams), "stream"))} //nolint:gosmopolitan // for the person who sees it
			if b.Before != "" {
				lines = append(lines, "what was there is in "+brief(b.Before))
			}
			return a.out.lines(lines...)
		},
	}
}
