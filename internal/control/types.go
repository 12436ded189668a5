package control

import "time"

// Event is one step of a long operation, told while it happens: a service being
// built, an instance becoming ready, a swap, a drain.
type Event struct {
	Time     time.Time `json:"time"`
	Kind     EventKind `json:"kind"`
	Service  string    `json:"service,omitempty"`
	Instance string    `json:"instance,omitempty"`
	// Text is for a person: one line, or the output of a failed build.
	Text string `json:"text,omitempty"`
	// Took is how long the step that ended here took, zero if it does not apply.
	Took time.Duration `json:"-"` // took_seconds in JSON
}

// EventKind says what an [Event] is about.
type EventKind string

// The kinds of events.
const (
	EventBuilding   EventKind = "building"   // Service
	EventBuilt      EventKind = "built"      // Service, Took
	EventBuildError EventKind = "buildError" // Service, Text: the end of the output
	EventStarting   EventKind = "starting"   // Service, Instance
	EventReady      EventKind = "ready"      // Service, Instance, Took
	EventDraining   EventKind = "draining"   // Service, Instance
	EventStopped    EventKind = "stopped"    // Service, Instance, Text: how it ended
	EventBackoff    EventKind = "backoff"    // Service, Instance, Text: reason and delay
	EventFailed     EventKind = "failed"     // Service, Instance, Text
	EventSwapped    EventKind = "swapped"    // the route table now is the new revision's
	EventTaken      EventKind = "taken"      // Text: the process that runs the system now
	EventListening  EventKind = "listening"  // Text: the door's address
	EventSecret     EventKind = "secret"     // Text: name and file of a secret generated now, never its value
	EventDatabase   EventKind = "database"   // Text: a database that was created now
	EventRoot       EventKind = "root"       // Text: file of a root certificate that was made now, for browsers to trust
	EventAllReady   EventKind = "allReady"   // Text: the door's address; every wanted instance takes traffic, told by up --json
	EventInfo       EventKind = "info"       // Text
	EventWarning    EventKind = "warning"    // Text
)

// Status is the state of the system.
type Status struct {
	System      string              `json:"system"`
	File        string              `json:"file"`
	Environment string              `json:"environment,omitempty"`
	Revision    int                 `json:"revision"`
	PID         int                 `json:"pid"`
	KeeperPID   int                 `json:"keeper_pid"`
	Version     string              `json:"version"`
	Started     time.Time           `json:"started"`
	Address     string              `json:"address"` // of the door, as a URL: the first of Listening
	Listening   List[string]        `json:"listening,omitempty"`
	Bus         string              `json:"bus"`                   // nats://host:port
	BusOutside  string              `json:"bus_outside,omitempty"` // host:port where users of the bus on other machines come in, over TLS
	BusStore    string              `json:"bus_store,omitempty"`   // the server elsewhere that keeps what the bus keeps, "": the data folder does
	BusFault    string              `json:"bus_fault,omitempty"`   // why nothing can be stored on the bus, "": it can
	Services    List[ServiceStatus] `json:"services"`
	// Maintenance is what is closed, and what was opened against the file.
	Maintenance List[Maintenance] `json:"maintenance,omitempty"`
	// Certificates are what the door shows, and those that it cannot have.
	Certificates List[Certificate] `json:"certificates,omitempty"`
	// Root is the file of the internal authority's certificate, which browsers have to
	// trust; "" if there is none.
	Root string `json:"root,omitempty"`
	// Phase says whether the system starts, runs or stops; "" of an older node.
	Phase Phase `json:"phase,omitempty"`
}

// Phase is how far the life of a system is.
type Phase string

// The phases of a system.
const (
	PhaseStarting Phase = "starting" // its services are being built, or started for the first time
	PhaseRunning  Phase = "running"
	PhaseStopping Phase = "stopping" // its instances are being ended
)

// ServiceStatus is the state of one service.
type ServiceStatus struct {
	Name     string               `json:"name"`
	Wanted   int                  `json:"wanted"`   // instances that shall run
	Ready    int                  `json:"ready"`    // instances that take traffic
	Override *Override            `json:"override"` // what `stop` or `scale` recorded, null if the file decides
	Problem  string               `json:"problem,omitempty"`
	External bool                 `json:"external,omitempty"` // something else runs it
	Instance List[InstanceStatus] `json:"instances"`
	// Traffic is there in the answers of start, stop and scale.
	Traffic *Traffic `json:"traffic,omitempty"`
}

// Override is a decision of the operator that the file does not say.
type Override struct {
	Replicas int       `json:"replicas"`
	Since    time.Time `json:"since"`
}

// Maintenance says of the door, or of one route, that it is closed for maintenance,
// or that it was opened although the file closes it.
type Maintenance struct {
	Route string    `json:"route,omitempty"` // its key, "" for the whole door
	On    bool      `json:"on"`
	Text  string    `json:"text,omitempty"`  // that clients are told, "" for the usual one
	Allow []string  `json:"allow,omitempty"` // networks of clients that are let through
	Since time.Time `json:"since,omitzero"`  // of the operator's decision; zero: the file says so
}

// Certificate is one of the door, or one that it cannot have.
type Certificate struct {
	Names   List[string] `json:"names"`             // names and addresses
	Source  string       `json:"source"`            // file, acme, internal
	File    string       `json:"file,omitempty"`    // with source file
	Expires time.Time    `json:"expires,omitzero"`  // zero: there is none yet
	Problem string       `json:"problem,omitempty"` // why there is no newer one
}

// InstanceStatus is the state of one instance.
type InstanceStatus struct {
	ID       string    `json:"id"`
	Revision int       `json:"revision"`
	State    string    `json:"state"` // starting, ready, draining, stopped, backoff, failed; of external ones ready, down
	Since    time.Time `json:"since"`
	PID      int       `json:"pid,omitempty"`
	Address  string    `json:"address,omitempty"` // tcp 127.0.0.1:port, unix path, or bus
	Restarts int       `json:"restarts"`
	Reason   string    `json:"reason,omitempty"` // of the last change of state
	Requests uint64    `json:"requests"`         // served, over HTTP and the bus
}

// The states of an instance that something else runs.
const (
	StateReady = "ready"
	StateDown  = "down" // its probes fail
)

// Receipt says what a change did to the traffic.
type Receipt struct {
	Service string        `json:"service"`
	Old     List[Served]  `json:"old"` // instances that were replaced
	New     List[Served]  `json:"new"` // instances that took their place
	Failed  uint64        `json:"failed"`
	Took    time.Duration `json:"-"` // took_seconds in JSON
	// Traffic is there in the answer of restart; a reload has one for all its receipts.
	Traffic *Traffic `json:"traffic,omitempty"`
}

// Traffic says what went through the whole door while a change was made.
type Traffic struct {
	Requests    uint64        `json:"requests"` // answered, whatever with
	Failed      uint64        `json:"failed"`   // answered 502, 503 or 504 by the door itself, or broken off
	Stall       time.Duration `json:"-"`        // longest wait of a request for an instance; stall_seconds in JSON
	Connections Carried       `json:"connections"`
	Tunnels     Carried       `json:"tunnels"` // of the connections, those that were upgraded, as WebSockets are
}

// Carried says how many of what was open before a change were open after it.
// Clients may have closed the others.
type Carried struct {
	Before int `json:"before"`
	Kept   int `json:"kept"`
}

// Served counts the requests that an instance got while a change went on.
type Served struct {
	Instance string `json:"instance"`
	Requests uint64 `json:"requests"`
}

// Change is one difference between two revisions.
type Change struct {
	Path string `json:"path"` // services.auth.replicas
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
	Kind string `json:"kind"` // added, removed, changed
}

// Revision is one applied version of the file.
type Revision struct {
	Number  int       `json:"number"`
	Applied time.Time `json:"applied"`
	Current bool      `json:"current"`
	From    int       `json:"from,omitempty"` // the revision that a rollback took up again
	Changes int       `json:"changes"`        // differences to the revision before
}

// Requests and answers of the verbs. A verb that is not named here takes or
// gives nothing.
type (
	// ServiceRequest names the service of start, stop and restart.
	ServiceRequest struct {
		Service string `json:"service"`
	}
	// ScaleRequest is for POST /v1/scale.
	ScaleRequest struct {
		Service  string `json:"service"`
		Replicas int    `json:"replicas"` // 0 to 64
	}
	// ReloadRequest is for POST /v1/reload.
	ReloadRequest struct {
		DryRun      bool   `json:"dry_run,omitempty"`
		Environment string `json:"environment,omitempty"` // "" keeps the one that runs
		ForceTypes  bool   `json:"force_types,omitempty"` // also changes of types that break those who rely on them
	}
	// ReloadReply says what was, or with DryRun would be, changed.
	ReloadReply struct {
		Revision int           `json:"revision"` // 0 with DryRun or without changes
		Changes  List[Change]  `json:"changes"`
		Replaces List[string]  `json:"replaces"` // services whose instances are replaced
		Receipts List[Receipt] `json:"receipts"`
		Traffic  *Traffic      `json:"traffic,omitempty"` // if something was changed
		// Warnings are what the change leaves behind: messages of queues that are not in the
		// file any more.
		Warnings []string `json:"warnings,omitempty"`
	}
	// RollbackRequest is for POST /v1/rollback.
	RollbackRequest struct {
		Revision int `json:"revision,omitempty"` // 0: the one before the current
	}
	// LogsRequest is for POST /v1/logs; the lines come as a stream of Line.
	LogsRequest struct {
		Service  string `json:"service,omitempty"` // "": all
		Instance string `json:"instance,omitempty"`
		Follow   bool   `json:"follow,omitempty"`
		Tail     int    `json:"tail,omitempty"` // last lines, of all instances together, to begin with; at most 10,000; -1 all
	}
	// Line is one line of an instance's output.
	Line struct {
		Time     time.Time `json:"time"`
		Instance string    `json:"instance"`
		Stream   string    `json:"stream"` // out, err
		Text     string    `json:"text"`
	}
	// BusRequest is for POST /v1/request: a request over the bus as the operator.
	BusRequest struct {
		Subject string            `json:"subject"`
		Data    []byte            `json:"data,omitempty"`
		Headers map[string]string `json:"headers,omitempty"`
		Timeout time.Duration     `json:"-"`              // default 5 s; timeout_seconds in JSON
		Nest    bool              `json:"nest,omitempty"` // wrap and unwrap NestJS's envelope; set by the node when the answering service's format is nest
	}
	// BusReply is what came back.
	BusReply struct {
		Data    []byte              `json:"data"`
		Headers map[string][]string `json:"headers,omitempty"`
		Error   string              `json:"error,omitempty"` // the service answered with an error
		Code    string              `json:"code,omitempty"`
	}
	// UpgradeRequest is for POST /v1/upgrade.
	UpgradeRequest struct {
		Binary string `json:"binary"` // path of the program that takes over, absolute
	}
	// UpgradeReply says who runs the system now, and what its traffic felt of it.
	UpgradeReply struct {
		PID     int           `json:"pid"`
		Version string        `json:"version"`
		From    string        `json:"from"` // version that ran before
		Took    time.Duration `json:"-"`    // took_seconds in JSON
		NoBus   time.Duration `json:"-"`    // for how long there was no bus; bus_seconds in JSON
		Held    time.Duration `json:"-"`    // longest that a request for the bus was held; held_seconds in JSON
		// Missing are the instances that have not come back to the bus in time.
		Missing List[string] `json:"missing"`
		// Finishing is what the former process still has open and finishes.
		Finishing Finishing `json:"finishing"`
		Traffic   *Traffic  `json:"traffic,omitempty"`
	}
	// Finishing counts what a process that takes nothing new has open.
	Finishing struct {
		Connections int `json:"connections"`
		Requests    int `json:"requests"`
		Tunnels     int `json:"tunnels"`
	}
	// DownReply says how the system ended.
	DownReply struct {
		Stopped int `json:"stopped"` // instances
	}
	// EnvReply lists what the instances of a service are given.
	EnvReply struct {
		Service   string         `json:"service"`
		Variables List[Variable] `json:"variables"` // sorted by name
	}
	// Variable is one variable of an instance's environment.
	Variable struct {
		Name   string `json:"name"`
		Source string `json:"source"`          // "file", "secret ADMIN_PASSWORD", "database trade", "fairlead", "shell"
		Value  string `json:"value,omitempty"` // never set for a secret, or what holds one
		Secret bool   `json:"secret,omitempty"`
	}
	// MaintenanceRequest closes the door or a route, or opens it.
	MaintenanceRequest struct {
		On    bool     `json:"on"`
		Route string   `json:"route,omitempty"` // its key, "" for the whole door
		Text  string   `json:"text,omitempty"`  // with On: what clients are told
		Allow []string `json:"allow,omitempty"` // with On: addresses and networks that are let through
	}
	// Empty is the request or the answer of a verb that takes or gives nothing.
	Empty struct{}
)

// The verbs of the control API: POST /v1/<verb>.
const (
	VerbStatus      = "status"      // Empty -> Status
	VerbStart       = "start"       // ServiceRequest -> ServiceStatus, when all its instances are ready
	VerbStop        = "stop"        // ServiceRequest -> ServiceStatus, when all its instances ended
	VerbScale       = "scale"       // ScaleRequest -> ServiceStatus, when as many instances are ready
	VerbRestart     = "restart"     // ServiceRequest -> Receipt
	VerbReload      = "reload"      // ReloadRequest -> ReloadReply
	VerbRollback    = "rollback"    // RollbackRequest -> ReloadReply
	VerbRevisions   = "revisions"   // Empty -> []Revision, oldest first
	VerbMaintenance = "maintenance" // MaintenanceRequest -> []Maintenance, as in Status
	VerbUpgrade     = "upgrade"     // UpgradeRequest -> UpgradeReply, when another process runs the system
	VerbDown        = "down"        // Empty -> DownReply, when all instances ended
	VerbLogs        = "logs"        // LogsRequest -> a stream of Line
	VerbRequest     = "request"     // BusRequest -> BusReply
	VerbEnv         = "env"         // ServiceRequest -> EnvReply
)
