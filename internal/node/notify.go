package node

import (
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// notify tells systemd, if it started this process, about a change of state
// (sd_notify(3)). It is no fault if nobody listens.
func notify(state string) {
	_ = sendNotification(os.Getenv("NOTIFY_SOCKET"), state)
}

// sendNotification sends a state to the socket at an address, "" for none, as
// sd_notify(3) does: one datagram, a leading @ names an abstract socket.
func sendNotification(address, state string) error {
	if address == "" {
		return nil
	}
	if !strings.HasPrefix(address, "/") && !strings.HasPrefix(address, "@") {
		return fmt.Errorf("notify: the address %q is no Unix socket", address)
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: address})
	if err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	defer conn.Close()
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second)) // fails only on a closed connection
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	return nil
}
