package control

import (
	"bytes"
	"encoding/json"
	"time"
)

// List is a slice that is never null in JSON. The zero value is the empty list.
type List[T any] []T

// MarshalJSON writes a list, [] if it is empty or nil.
func (l List[T]) MarshalJSON() ([]byte, error) {
	if l == nil {
		return []byte("[]"), nil
	}
	return encode([]T(l))
}

// encode is json.Marshal, without escapes that only HTML needs.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Durations travel as seconds, which their names say.

// MarshalJSON writes the event with its duration in seconds.
func (e Event) MarshalJSON() ([]byte, error) {
	type plain Event
	return encode(struct {
		plain
		TookSeconds float64 `json:"took_seconds,omitempty"`
	}{plain(e), e.Took.Seconds()})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (e *Event) UnmarshalJSON(b []byte) error {
	type plain Event
	in := struct {
		*plain
		TookSeconds float64 `json:"took_seconds"`
	}{plain: (*plain)(e)}
	err := json.Unmarshal(b, &in)
	e.Took = duration(in.TookSeconds)
	return err
}

// MarshalJSON writes the receipt with its duration in seconds.
func (r Receipt) MarshalJSON() ([]byte, error) {
	type plain Receipt
	return encode(struct {
		plain
		TookSeconds float64 `json:"took_seconds"`
	}{plain(r), r.Took.Seconds()})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (r *Receipt) UnmarshalJSON(b []byte) error {
	type plain Receipt
	in := struct {
		*plain
		TookSeconds float64 `json:"took_seconds"`
	}{plain: (*plain)(r)}
	err := json.Unmarshal(b, &in)
	r.Took = duration(in.TookSeconds)
	return err
}

// MarshalJSON writes the reply with its durations in seconds.
func (r UpgradeReply) MarshalJSON() ([]byte, error) {
	type plain UpgradeReply
	return encode(struct {
		plain
		upgradeSeconds
	}{plain(r), upgradeSeconds{r.Took.Seconds(), r.NoBus.Seconds(), r.Held.Seconds()}})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (r *UpgradeReply) UnmarshalJSON(b []byte) error {
	type plain UpgradeReply
	in := struct {
		*plain
		upgradeSeconds
	}{plain: (*plain)(r)}
	err := json.Unmarshal(b, &in)
	r.Took, r.NoBus, r.Held = duration(in.TookSeconds), duration(in.BusSeconds), duration(in.HeldSeconds)
	return err
}

type upgradeSeconds struct {
	TookSeconds float64 `json:"took_seconds"`
	BusSeconds  float64 `json:"bus_seconds"`
	HeldSeconds float64 `json:"held_seconds"`
}

// MarshalJSON writes the traffic with its longest wait in seconds.
func (t Traffic) MarshalJSON() ([]byte, error) {
	type plain Traffic
	return encode(struct {
		plain
		StallSeconds float64 `json:"stall_seconds"`
	}{plain(t), t.Stall.Seconds()})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (t *Traffic) UnmarshalJSON(b []byte) error {
	type plain Traffic
	in := struct {
		*plain
		StallSeconds float64 `json:"stall_seconds"`
	}{plain: (*plain)(t)}
	err := json.Unmarshal(b, &in)
	t.Stall = duration(in.StallSeconds)
	return err
}

// MarshalJSON writes the request with its duration in seconds.
func (r BusRequest) MarshalJSON() ([]byte, error) {
	type plain BusRequest
	return encode(struct {
		plain
		TimeoutSeconds float64 `json:"timeout_seconds,omitempty"`
	}{plain(r), r.Timeout.Seconds()})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (r *BusRequest) UnmarshalJSON(b []byte) error {
	type plain BusRequest
	in := struct {
		*plain
		TimeoutSeconds float64 `json:"timeout_seconds"`
	}{plain: (*plain)(r)}
	err := json.Unmarshal(b, &in)
	r.Timeout = duration(in.TimeoutSeconds)
	return err
}

// duration rounds to a microsecond, so that what was exact stays so.
func duration(seconds float64) time.Duration {
	return time.Duration(seconds * float64(time.Second)).Round(time.Microsecond)
}
