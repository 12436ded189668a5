package certs

import (
	"crypto/tls"
	"encoding/hex"
	"strings"
)

// ClientSubject returns who a client has proved to be with its certificate: the
// distinguished name of the certificate as RFC 4514 writes it, such as
// "CN=scanner-7,O=Example". What is not printable ASCII is written as \XX, so that
// it can be the value of a header. "" if there is no certificate, or none that was
// verified.
func ClientSubject(state *tls.ConnectionState) string {
	if state == nil || len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return ""
	}
	return printable(state.VerifiedChains[0][0].Subject.String())
}

func printable(name string) string {
	clean := func(c byte) bool { return c >= ' ' && c <= '~' }
	i := 0
	for i < len(name) && clean(name[i]) {
		i++
	}
	if i == len(name) {
		return name
	}
	var b strings.Builder
	for _, c := range []byte(name) {
		if clean(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('\\')
			b.WriteString(strings.ToUpper(hex.EncodeToString([]byte{c})))
		}
	}
	return b.String()
}
