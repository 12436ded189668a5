package control

import "time"

// BusUser is a client of the bus that is no service of the system.
type BusUser struct {
	Name        string       `json:"name"`
	Publishes   List[string] `json:"publishes"`
	Subscribes  List[string] `json:"subscribes"`
	Asks        List[string] `json:"asks"`
	Expires     time.Time    `json:"expires,omitzero"` // zero: never
	Since       time.Time    `json:"since,omitzero"`   // when it was added; zero: the file names it
	Connections int          `json:"connections"`      // that it has now
}

// BusCredentials are what a client of the bus needs to connect. They are told once.
type BusCredentials struct {
	BusUser
	Password string `json:"password"`
	// InboxPrefix is the only place where the client may await replies.
	InboxPrefix string `json:"inbox_prefix"`
	// URL is the bus's address for programs on this machine.
	URL string `json:"url"`
	// Outside is the address for others, host:port of a listener with TLS; "" if there
	// is none.
	Outside string `json:"outside,omitempty"`
	// Warnings are subjects of the user that nobody else of the file has to do with.
	Warnings []string `json:"warnings,omitempty"`
}

// Requests of the verbs for users of the bus.
type (
	// BusUserAddRequest is for POST /v1/bus-user-add.
	BusUserAddRequest struct {
		Name       string    `json:"name"`
		Publishes  []string  `json:"publishes,omitempty"`
		Subscribes []string  `json:"subscribes,omitempty"`
		Asks       []string  `json:"asks,omitempty"`
		Expires    time.Time `json:"expires,omitzero"` // zero: never
	}
	// BusUserRevokeRequest is for POST /v1/bus-user-revoke.
	BusUserRevokeRequest struct {
		Name string `json:"name"`
	}
)

// The verbs for users of the bus.
const (
	VerbBusUserAdd    = "bus-user-add"    // BusUserAddRequest -> BusCredentials
	VerbBusUserRevoke = "bus-user-revoke" // BusUserRevokeRequest -> BusUser, whose connections have been cut
	VerbBusUsers      = "bus-users"       // Empty -> []BusUser, sorted by name, those that have expired too
)
