package listen

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// The PROXY protocol, versions 1 and 2, as HAProxy's proxy-protocol.txt (2020)
// describes it.
const (
	proxyV1Prefix = "PROXY "
	proxyV2Magic  = "\r\n\r\n\x00\r\nQUIT\n"
	proxyV1Most   = 107 // bytes of a line of version 1, its end included
	proxyV2Fixed  = 16
	proxyV2Most   = 4 << 10 // of what follows; the addresses need 36, the rest is options
)

// proxyError says why the start of a connection is no PROXY header.
type proxyError string

func (e proxyError) Error() string { return "read PROXY header: " + string(e) }

// readProxyHeader reads a PROXY header and nothing behind it. It returns the
// client's address; the zero one says that the proxy speaks for itself (LOCAL,
// UNKNOWN), as in its health checks.
func readProxyHeader(r io.Reader) (netip.AddrPort, error) {
	// Every header of either version is longer than version 2's magic.
	var buf [proxyV1Most]byte
	start := buf[:len(proxyV2Magic)]
	if _, err := io.ReadFull(r, start); err != nil {
		return netip.AddrPort{}, fmt.Errorf("read PROXY header: %w", err)
	}
	if string(start) == proxyV2Magic {
		return readProxyV2(r)
	}
	if !bytes.HasPrefix(start, []byte(proxyV1Prefix)) {
		return netip.AddrPort{}, proxyError("the connection does not begin with one")
	}
	// A byte at a time, since what follows the line is not ours to read.
	for n := len(start); n < len(buf); n++ {
		if _, err := io.ReadFull(r, buf[n:n+1]); err != nil {
			return netip.AddrPort{}, fmt.Errorf("read PROXY header: %w", err)
		}
		if buf[n] == '\n' {
			return parseProxyV1(string(buf[:n+1]))
		}
	}
	return netip.AddrPort{}, proxyError("the line is too long")
}

// parseProxyV1 parses a whole line of version 1.
func parseProxyV1(line string) (netip.AddrPort, error) {
	body, ok := strings.CutSuffix(line, "\r\n")
	if !ok {
		return netip.AddrPort{}, proxyError("the line does not end in CR LF")
	}
	f := strings.Split(strings.TrimPrefix(body, proxyV1Prefix), " ")
	if f[0] == "UNKNOWN" { // whatever follows is to be ignored
		return netip.AddrPort{}, nil
	}
	if len(f) != 5 || f[0] != "TCP4" && f[0] != "TCP6" {
		return netip.AddrPort{}, proxyError("the line is malformed")
	}
	src, err1 := proxyAddr(f[1], f[0] == "TCP6")
	_, err2 := proxyAddr(f[2], f[0] == "TCP6")
	port, err3 := proxyPort(f[3])
	_, err4 := proxyPort(f[4])
	if errors.Join(err1, err2, err3, err4) != nil {
		return netip.AddrPort{}, proxyError("an address or port is malformed")
	}
	return netip.AddrPortFrom(src, port), nil
}

var errProxyAddr = errors.New("malformed")

func proxyAddr(s string, six bool) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Is6() != six || a.Zone() != "" {
		return netip.Addr{}, errProxyAddr
	}
	return a.Unmap(), nil
}

// proxyPort parses a port as the protocol wants it: digits, no leading zero.
func proxyPort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, errProxyAddr
	}
	return uint16(n), nil
}

// readProxyV2 reads what follows the magic of version 2.
func readProxyV2(r io.Reader) (netip.AddrPort, error) {
	var fixed [proxyV2Fixed - len(proxyV2Magic)]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return netip.AddrPort{}, fmt.Errorf("read PROXY header: %w", err)
	}
	length := int(binary.BigEndian.Uint16(fixed[2:]))
	if length > proxyV2Most {
		return netip.AddrPort{}, proxyError("it is too long")
	}
	rest := make([]byte, length)
	if _, err := io.ReadFull(r, rest); err != nil {
		return netip.AddrPort{}, fmt.Errorf("read PROXY header: %w", err)
	}
	return parseProxyV2(fixed[0], fixed[1], rest)
}

// parseProxyV2 parses version and command, family and protocol, and what follows
// the length. Options behind the addresses are not looked at.
func parseProxyV2(command, family byte, rest []byte) (netip.AddrPort, error) {
	const (
		version   = 0x20
		local     = 0x0
		proxied   = 0x1
		tcp4      = 0x11
		tcp6      = 0x21
		tcp4Bytes = 12
		tcp6Bytes = 36
	)
	switch {
	case command&0xf0 != version:
		return netip.AddrPort{}, proxyError("the version is unknown")
	case command&0x0f == local:
		return netip.AddrPort{}, nil
	case command&0x0f != proxied:
		return netip.AddrPort{}, proxyError("the command is unknown")
	case family == tcp4 && len(rest) >= tcp4Bytes:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(rest)), binary.BigEndian.Uint16(rest[8:])), nil
	case family == tcp6 && len(rest) >= tcp6Bytes:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(rest)).Unmap(), binary.BigEndian.Uint16(rest[32:])), nil
	case family == tcp4 || family == tcp6:
		return netip.AddrPort{}, proxyError("the addresses are cut off")
	}
	// Unix sockets, datagrams, unspecified: nothing that says who the client is.
	return netip.AddrPort{}, nil
}

// looksProxied reports whether the first bytes of a connection, or what has come of
// them so far, are those of a PROXY header.
func looksProxied(b []byte) bool {
	const telling = 4 // no request begins with two empty lines
	n := min(len(b), len(proxyV2Magic))
	return bytes.HasPrefix(b, []byte(proxyV1Prefix)) || n >= telling && string(b[:n]) == proxyV2Magic[:n]
}
