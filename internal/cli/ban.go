package cli

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"fairlead/internal/control"
	"fairlead/internal/system/notation"
)

func (a *app) banCommand() *cobra.Command {
	var lasts time.Duration
	var req control.BanRequest
	cmd := &cobra.Command{
		Use:   "ban ADDRESS|NETWORK",
		Short: "Keep a client, or a network, out of the door",
		Long: `Closes new connections of the address, or of the network, without an answer from
now on, and cuts its WebSockets and streams; requests on connections that are open
already, or that come through proxies which the file trusts, are answered 403. The
ban survives "down" and "up" and ends by itself after --for, or with "fairlead
unban"; a second one of the same address takes the place of the first. Nobody is
told the reason but you.`,
		Example: `  fairlead ban 203.0.113.7 --for 1h --reason "guesses passwords"
  fairlead ban 2001:db8::/64
  fairlead ban 198.51.100.0/24 --for 24h --json`,
		Args: argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if req.Network, err = parseNetwork(args[0]); err != nil {
				return err
			}
			if cmd.Flags().Changed("for") {
				if lasts <= 0 {
					return &usageError{problem: "--for must be more than nothing", hint: "leave it out for a ban without end"}
				}
				req.Until = a.now().Add(lasts)
			}
			b, err := ask[control.BanRequest, control.Ban](cmd.Context(), a, control.VerbBan, "", req)
			if err != nil {
				return err
			}
			if a.json {
				return a.out.json(b)
			}
			return a.out.lines(networkText(b.Network) + " is banned " + banEnd(b, a.now()))
		},
	}
	flags := cmd.Flags()
	flags.Var((*span)(&lasts), "for", "how long, such as 30m or 7d (default: until it is lifted)")
	flags.StringVar(&req.Reason, "reason", "", "why, for the list and the access log")
	flags.BoolVar(&req.Force, "force", false, "also addresses of this machine itself")
	return cmd
}

func (a *app) unbanCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "unban ADDRESS|NETWORK",
		Short: "Lift a ban",
		Long:  `Lifts the ban of exactly this address or network; "fairlead bans" lists all.`,
		Example: `  fairlead unban 203.0.113.7
  fairlead unban 198.51.100.0/24`,
		Args: argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			network, err := parseNetwork(args[0])
			if err != nil {
				return err
			}
			b, err := ask[control.UnbanRequest, control.Ban](cmd.Context(), a, control.VerbUnban, "", control.UnbanRequest{Network: network})
			if err != nil {
				return err
			}
			if a.json {
				return a.out.json(b)
			}
			return a.out.lines(networkText(b.Network) + " is not banned any more")
		},
	}
}

func (a *app) bansCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "bans",
		Short: "List who is banned from the door",
		Long:  `Lists the bans that hold, with since when, how long still, and why.`,
		Example: `  fairlead bans
  fairlead bans --json | jq -r '.bans[].network'`,
		Args: argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := ask[control.Empty, []control.Ban](cmd.Context(), a, control.VerbBans, "", control.Empty{})
			if err != nil {
				return err
			}
			if a.json {
				return a.out.json(map[string]any{"bans": control.List[control.Ban](list)})
			}
			return a.out.lines(renderBans(a.out, list, a.now())...)
		},
	}
}

func renderBans(s *screen, list []control.Ban, now time.Time) []string {
	if len(list) == 0 {
		return []string{"nobody is banned"}
	}
	rows := [][]string{{s.style(dim, "NETWORK"), s.style(dim, "SINCE"), s.style(dim, "ENDS"), s.style(dim, "REASON")}}
	for _, b := range list {
		rows = append(rows, []string{networkText(b.Network), ago(now.Sub(b.Since)) + " ago", banEnd(b, now), b.Reason})
	}
	return table(rows)
}

// span is a flag that takes a duration as the file writes it, in days too.
type span time.Duration

// Set implements pflag.Value.
func (d *span) Set(s string) error {
	v, err := notation.ParseDuration(s)
	*d = span(v)
	return err
}

// String implements pflag.Value; it has no default that could be shown.
func (*span) String() string { return "" }

// Type implements pflag.Value.
func (*span) Type() string { return "duration" }

// banEnd says how long a ban lasts: "for 59m58s", "until it is lifted".
func banEnd(b control.Ban, now time.Time) string {
	if b.Until.IsZero() {
		return "until it is lifted"
	}
	return "for " + ago(b.Until.Sub(now).Round(time.Second))
}

// networkText writes a network of one address as that address.
func networkText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// parseNetwork reads an address or a network.
func parseNetwork(s string) (netip.Prefix, error) {
	wrong := &usageError{problem: fmt.Sprintf("%q is neither an address nor a network", s), hint: "write it as 203.0.113.7, 203.0.113.0/24, 2001:db8::1 or 2001:db8::/64"}
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return netip.Prefix{}, wrong
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, wrong
	}
	if p != p.Masked() {
		wrong.problem = fmt.Sprintf("%q has bits behind the length of its network", s)
		wrong.hint = "did you mean " + p.Masked().String() + ", or the address " + p.Addr().String() + "?"
		return netip.Prefix{}, wrong
	}
	return p, nil
}
