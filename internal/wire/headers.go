package wire

// ForeignHeader reports whether a header is one that a client may not send to the
// inside: any spelling of Fairlead-* and Nats-*. Case does not matter, and any
// character that is neither letter nor digit counts as a dash, because many
// programs read X_Y and X.Y as X-Y.
func ForeignHeader(name string) bool {
	return hasForeignPrefix(name, "fairlead-") || hasForeignPrefix(name, "nats-")
}

func hasForeignPrefix(name, prefix string) bool {
	if len(name) < len(prefix) {
		return false
	}
	for i := range len(prefix) {
		c := name[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		default:
			c = '-'
		}
		if c != prefix[i] {
			return false
		}
	}
	return true
}
