package system

import (
	"net"
	"net/netip"

	"fairlead/internal/system/document"
)

// prefixes reads a list of networks and addresses; an address is a network of one.
func (r *reader) prefixes(n *document.Node) []netip.Prefix {
	var out []netip.Prefix
	for _, item := range r.texts(n, true) {
		p, advice := parsePrefix(item.Text)
		if advice != "" {
			r.rec.add(item.At, item.Path, badNetwork, quote(item.Text), advice)
			continue
		}
		out = append(out, p)
	}
	return out
}

// parsePrefix reads a network, or an address as a network of one. advice is "" if s
// is one.
func parsePrefix(s string) (p netip.Prefix, advice string) {
	if addr, err := netip.ParseAddr(s); err == nil {
		if addr.Zone() != "" {
			return p, "leave out the zone, the part after %"
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), ""
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, "write it as in 10.0.0.0/8, 10.0.0.7 or 2001:db8::/32"
	case p.Addr().Is4In6():
		return p, "write it as a network of IPv4, as in 10.0.0.0/8"
	case p != p.Masked():
		return p, "write " + p.Masked().String() + " for the network, or " + p.Addr().String() + " for that address alone"
	}
	return p, ""
}

// sameAddress reports whether two addresses, each host:port, cannot be listened on
// at once.
func sameAddress(a, b string) bool {
	hostA, portA, _ := net.SplitHostPort(a)
	hostB, portB, _ := net.SplitHostPort(b)
	if portA != portB || portA == "0" {
		return false
	}
	hostA, hostB = oneHost(hostA), oneHost(hostB)
	return hostA == hostB || hostA == "" || hostB == ""
}

// oneHost spells a host in one way; "" stands for all interfaces.
func oneHost(host string) string {
	if host == "localhost" {
		return "127.0.0.1"
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr = addr.Unmap(); addr.IsUnspecified() {
			return ""
		}
		return addr.String()
	}
	return host
}
