package control

import (
	"net/netip"
	"time"
)

// Ban keeps the clients of a network out of the door.
type Ban struct {
	Network netip.Prefix `json:"network"` // one address is a network too: 192.0.2.1/32
	Since   time.Time    `json:"since"`
	Until   time.Time    `json:"until,omitzero"` // zero: until it is lifted
	Reason  string       `json:"reason,omitempty"`
}

// Requests of the verbs for bans.
type (
	// BanRequest is for POST /v1/ban. A network that is banned already gets the new
	// end and reason.
	BanRequest struct {
		Network netip.Prefix `json:"network"`
		Until   time.Time    `json:"until,omitzero"` // zero: until it is lifted
		Reason  string       `json:"reason,omitempty"`
		// Force is needed to ban addresses of this machine itself.
		Force bool `json:"force,omitempty"`
	}
	// UnbanRequest is for POST /v1/unban.
	UnbanRequest struct {
		Network netip.Prefix `json:"network"`
	}
)

// The verbs for bans.
const (
	VerbBan   = "ban"   // BanRequest -> Ban
	VerbUnban = "unban" // UnbanRequest -> Ban, the one that was lifted
	VerbBans  = "bans"  // Empty -> []Ban, those that hold, sorted by network
)
