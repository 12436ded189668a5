// Package message holds the two messages that the services of the svom system send
// each other, in the form that its messaging service laid down, and the heartbeat
// with which each of them says that it is there.
//
// What the messages must satisfy stands in the schemas of the system; the bus checks
// it, whoever publishes. A ServiceStatus goes to activity.<programme>, a
// DataNotification to data.<source> and science.<programme>.
package message

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"fairlead/service"
	"fairlead/stacks/svom/notice"
)

// ServiceStatus is what a service says about itself.
type ServiceStatus struct {
	Status Status `json:"ServiceStatus"`
}

// Status is the content of a [ServiceStatus].
type Status struct {
	Descriptor Descriptor `json:"descriptor"`
	Activity   string     `json:"activity"` // such as Running
	Date       time.Time  `json:"date"`
}

// Descriptor says which service it is.
type Descriptor struct {
	Name       string    `json:"name"` // such as VHF_RECEIVER
	Created    time.Time `json:"creation_date"`
	URI        string    `json:"uri"`        // svom://...
	Instrument string    `json:"instrument"` // ANY, ECLAIRS, GRM, MXT or VT
	Mode       string    `json:"mode"`
	Version    float64   `json:"version"`
}

// DataNotification tells that data has arrived.
type DataNotification struct {
	Data Data `json:"DataNotification"`
}

// Data is the content of a [DataNotification].
type Data struct {
	Source   string `json:"source"`    // such as VHF
	Type     string `json:"data_type"` // such as [TypeAlert]
	Date     string `json:"date"`      // UTC, RFC 3339, also without a zone
	Message  string `json:"message"`   // JSON, whose form the type says
	Resource string `json:"resource_locator"`
}

// Types of data whose messages are checked too.
const (
	TypeAlert  = "ECLALERTL1" // a decoded packet of an ECLAIRs alert
	TypeNotice = "NOTICE"     // a [notice.Notice]
	TypeBurst  = "BURST"      // a [notice.Burst]
)

// Date is a time as notifications write it.
func Date(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// OfNotice is the notification of an alert notice.
func OfNotice(source string, n notice.Notice, now time.Time) (DataNotification, error) {
	text, err := json.Marshal(n)
	if err != nil {
		return DataNotification{}, fmt.Errorf("write notice %s: %w", n.ID, err)
	}
	return DataNotification{Data{
		Source: source, Type: TypeNotice, Date: Date(now),
		Message: string(text), Resource: n.ID,
	}}, nil
}

// Notice reads the alert notice of a notification of [TypeNotice].
func (d Data) Notice() (notice.Notice, error) {
	var n notice.Notice
	if d.Type != TypeNotice {
		return n, fmt.Errorf("read notice: it is a %s", d.Type)
	}
	if err := json.Unmarshal([]byte(d.Message), &n); err != nil {
		return n, fmt.Errorf("read notice: %w", err)
	}
	return n, nil
}

// Heartbeat publishes the status of a service on a subject, activity.<programme>,
// now and every interval, and returns when ctx ends. It is run in a goroutine of its
// own. A status that cannot be published is logged; the next follows. Who is not heard
// of for three intervals is gone.
func Heartbeat(ctx context.Context, s *service.Service, subject, name string, every time.Duration) {
	created := time.Now().UTC().Truncate(time.Second)
	tell := func(activity string) {
		ctx, cancel := context.WithTimeout(ctx, every)
		defer cancel()
		err := service.Publish(ctx, s, subject, ServiceStatus{Status{
			Descriptor: Descriptor{Name: name, Created: created, URI: "svom://" + s.Name() + "/" + s.Instance(), Instrument: "ANY", Mode: "ANY", Version: 1},
			Activity:   activity,
			Date:       time.Now().UTC().Truncate(time.Second),
		}})
		if err != nil && ctx.Err() == nil {
			s.Logger().WarnContext(ctx, "status not announced", "subject", subject, "error", err)
		}
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	tell("Starting")
	for {
		select {
		case <-tick.C:
			tell("Running")
		case <-ctx.Done():
			return
		}
	}
}
