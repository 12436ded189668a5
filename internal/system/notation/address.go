package notation

import (
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// CheckAddress returns the host of host:port and advice if it is none. A port of 0
// lets the kernel choose.
func CheckAddress(s string) (host, advice string, ok bool) {
	if _, err := strconv.ParseUint(s, 10, 64); err == nil {
		return "", `write "127.0.0.1:` + s + `", or ":` + s + `" for all interfaces`, false
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", `write it as in "127.0.0.1:8080", or ":8080" for all interfaces; IPv6 as in "[::1]:8080"`, false
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return "", "the port must be 0 to 65535", false
	}
	if host == "" || IsHostName(host) {
		return host, "", true
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return "", "the host must be an IP address or a name", false
	}
	return host, "", true
}

// IsLoopback reports whether only this machine reaches the host.
func IsLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// IsHostName reports whether s is a DNS name in lower case.
func IsHostName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// ParsePrefix reads a network, or an address as a network of one. advice is "" if s
// is one.
func ParsePrefix(s string) (p netip.Prefix, advice string) {
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

// SameAddress reports whether two addresses, each host:port, cannot be listened on
// at once.
func SameAddress(a, b string) bool {
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

// ParseOrigin reads scheme://host[:port] (RFC 6454, 6.2), whose host may begin with
// "*.", or "*". advice is "" if s is one.
func ParseOrigin(s string) (origin, advice string) {
	if s == "*" {
		return s, ""
	}
	small := strings.ToLower(s)
	u, err := url.Parse(strings.Replace(small, "://*.", "://", 1))
	switch {
	case err != nil, u.Host == "", !slices.Contains([]string{"http", "https"}, u.Scheme), u.User != nil, u.RawQuery != "", u.Fragment != "":
		return "", "write it as in https://app.example.com or http://localhost:3000"
	case u.Path != "" || strings.ContainsAny(small, "?#"):
		return "", "an origin has no path: write " + u.Scheme + "://" + u.Host
	case u.Scheme == "https" && u.Port() == "443", u.Scheme == "http" && u.Port() == "80":
		return "", "browsers leave the port out: write " + u.Scheme + "://" + u.Hostname()
	}
	if _, advice, ok := CheckAddress(u.Host); u.Port() != "" && !ok {
		return "", advice
	}
	if u.Port() == "" {
		if _, _, ok := CheckAddress(u.Host + ":1"); !ok {
			return "", "the host must be an IP address or a name"
		}
	}
	return small, ""
}

// IsRedirect reports whether s is a path of this host, or a URL whose host is
// written out: no path value can lead a client to somebody else's.
func IsRedirect(s string) bool {
	if strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c == 0x7f || c == '\\' }) {
		return false
	}
	filled := strings.NewReplacer("{", "x", "}", "").Replace(s) // a value completes no escape
	u, err := url.Parse(filled)
	if strings.HasPrefix(s, "/") {
		return err == nil && !strings.HasPrefix(filled, "//")
	}
	scheme, rest, _ := strings.Cut(s, "://") // a path value must not stand in either
	host, _, _ := strings.Cut(rest, "/")
	return err == nil && strings.EqualFold(scheme, u.Scheme) && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && u.User == nil && !strings.ContainsAny(host, "{}")
}
