package cli

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fairlead/internal/control"
	"fairlead/internal/system/notation"
)

// busCommand holds the verbs for the bus itself.
func (a *app) busCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bus user add|revoke|list",
		Short: "Add, revoke and list users of the bus",
		Long: `Users of the bus are clients that are no services of the system:
see "fairlead bus user --help". What is on the bus shows "fairlead queues".`,
		Example: `  fairlead bus user list`,
		Args:    argsBetween(0, 0),
		RunE: func(*cobra.Command, []string) error {
			return &usageError{problem: "what shall be done with the bus?", hint: "see: fairlead bus user --help"}
		},
	}
	cmd.AddCommand(a.userCommand())
	return cmd
}

// userCommand holds the verbs for users of the bus.
func (a *app) userCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "user add|revoke|list",
		Short: "Add, revoke and list users of the bus",
		Long: `Users of the bus are clients that are no services of the system: programs of others,
on this machine or elsewhere. Those that the file names (bus.users) are changed there;
those that are added here survive "down" and "up" until they are revoked or expire.`,
		Example: `  fairlead bus user add tower --publish data.vhf --subscribe 'activity.*' --expires 30d
  fairlead bus user list
  fairlead bus user revoke tower`,
		Args: argsBetween(0, 0),
		RunE: func(*cobra.Command, []string) error {
			return &usageError{problem: "what shall be done with the users?", hint: "there are add, revoke and list; see: fairlead bus user --help"}
		},
	}
	cmd.AddCommand(a.userAddCommand(), a.userRevokeCommand(), a.userListCommand())
	return cmd
}

func (a *app) userAddCommand() *cobra.Command {
	var req control.BusUserAddRequest
	var expires string
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a user of the bus, and show its credentials once",
		Long: `Adds a user that may publish, subscribe and ask what is named here and nothing else,
and shows its password, which is not kept: whoever loses it needs another user. A
client must set its inbox prefix, an option of every NATS client, to the one that is
shown: nobody else can read its replies there.`,
		Example: `  fairlead bus user add tower --publish data.vhf --publish data.ais
  fairlead bus user add board --subscribe 'activity.*' --subscribe 'data.*' --expires 30d
  fairlead bus user add audit --ask orders.find --expires 2027-01-31 --json`,
		Args: argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			req.Name = args[0]
			if req.Expires, err = parseEnd(expires, a.now()); err != nil {
				return err
			}
			c, err := ask[control.BusUserAddRequest, control.BusCredentials](cmd.Context(), a, control.VerbBusUserAdd, "", req)
			if err != nil {
				return err
			}
			if a.json {
				return a.out.json(c)
			}
			return a.out.lines(renderCredentials(c, a.now())...)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&req.Publishes, "publish", nil, "a subject that it may publish to (repeatable)")
	flags.StringArrayVar(&req.Subscribes, "subscribe", nil, "a subject that it may subscribe to (repeatable)")
	flags.StringArrayVar(&req.Asks, "ask", nil, "a subject that it may send requests to (repeatable)")
	flags.StringVar(&expires, "expires", "", "when it ends: after 12h or 30d, or on a day or at a time such as 2027-01-31T12:00:00Z (default: never)")
	return cmd
}

func (a *app) userRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME",
		Short: "Revoke a user of the bus, and cut its connections",
		Long:  `Ends a user that was added by hand: its connections are cut, and no new one can be made.`,
		Example: `  fairlead bus user revoke tower
  fairlead bus user revoke tower --json`,
		Args: argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := ask[control.BusUserRevokeRequest, control.BusUser](cmd.Context(), a, control.VerbBusUserRevoke, "", control.BusUserRevokeRequest{Name: args[0]})
			if err != nil {
				return err
			}
			if a.json {
				return a.out.json(u)
			}
			return a.out.lines(fmt.Sprintf("%s is revoked, %s cut", u.Name, plural(u.Connections, "connection")))
		},
	}
}

func (a *app) userListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the users of the bus",
		Long: `Lists the users of the bus: what they may do, until when, whether the file names them
or when they were added, and how many connections they have now.`,
		Example: `  fairlead bus user list
  fairlead bus user list --json | jq -r '.users[] | select(.connections > 0) | .name'`,
		Args: argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := ask[control.Empty, []control.BusUser](cmd.Context(), a, control.VerbBusUsers, "", control.Empty{})
			if err != nil {
				return err
			}
			if a.json {
				return a.out.json(map[string]any{"users": control.List[control.BusUser](list)})
			}
			return a.out.lines(renderUsers(a.out, list, a.now())...)
		},
	}
}

// parseEnd reads when something ends: a duration from now on, a day or a time.
func parseEnd(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := notation.ParseDuration(s); err == nil && d > 0 {
		return now.Add(d).Truncate(time.Second), nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, s, time.Local); err == nil { //nolint:gosmopolitan // a day of the person who says it
		return t, nil
	}
	return time.Time{}, &usageError{problem: fmt.Sprintf("--expires %q is neither a duration nor a time", s), hint: "write it as 12h, 30d, 2027-01-31 or 2027-01-31T12:00:00Z"}
}

func renderCredentials(c control.BusCredentials, now time.Time) []string {
	lines := []string{
		fmt.Sprintf("%s was added and %s. Its password is shown now and never again:", c.Name, userEnd(c.BusUser, now)),
		"",
		"NATS_URL=" + c.URL,
	}
	if c.Outside != "" {
		lines = append(lines, "# from other machines: tls://"+reachable(c.Outside))
	}
	lines = append(
		lines,
		"NATS_USER="+c.Name,
		"NATS_PASSWORD="+c.Password,
		"NATS_INBOX_PREFIX="+c.InboxPrefix,
	)
	for _, w := range c.Warnings {
		lines = append(lines, "# warning: "+harmless(w, false))
	}
	return lines
}

// reachable is where a listener can be reached: HOST stands for this machine where it
// takes connections to any of its addresses.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if ip, parsed := netip.ParseAddr(host); err == nil && (host == "" || parsed == nil && ip.IsUnspecified()) {
		return "HOST:" + port
	}
	return address
}

func renderUsers(s *screen, list []control.BusUser, now time.Time) []string {
	if len(list) == 0 {
		return []string{"there are no users"}
	}
	rows := [][]string{{
		s.style(dim, "NAME"), s.style(dim, "FROM"), s.style(dim, "ENDS"), s.style(dim, "CONNECTIONS"),
		s.style(dim, "PUBLISHES"), s.style(dim, "SUBSCRIBES"), s.style(dim, "ASKS"),
	}}
	for _, u := range list {
		from := "the file"
		if !u.Since.IsZero() {
			from = ago(now.Sub(u.Since)) + " ago"
		}
		rows = append(rows, []string{
			u.Name, from, strings.TrimSuffix(strings.TrimPrefix(userEnd(u, now), "expires "), " expires"), fmt.Sprint(u.Connections),
			subjects(u.Publishes), subjects(u.Subscribes), subjects(u.Asks),
		})
	}
	return table(rows)
}

// userEnd says how long a user may connect: "never expires", "expires in 30d".
func userEnd(u control.BusUser, now time.Time) string {
	switch left := u.Expires.Sub(now); {
	case u.Expires.IsZero():
		return "never expires"
	case left <= 0:
		return "has expired"
	default:
		return "expires in " + ago(left.Round(time.Second))
	}
}

func subjects(list []string) string {
	if len(list) == 0 {
		return "-"
	}
	return strings.Join(list, ", ")
}
