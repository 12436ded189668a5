package control_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fairlead/internal/control"
)

func TestJSONNamesItsUnitsAndHasNoNull(t *testing.T) {
	noon := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		name  string
		value any
		again any
		want  string
	}{
		{
			"event", &control.Event{Time: noon, Kind: control.EventReady, Service: "a", Text: "<&>", Took: 1312345 * time.Microsecond}, &control.Event{},
			`{"time":"2026-05-04T12:00:00Z","kind":"ready","service":"a","text":"<&>","took_seconds":1.312345}`,
		},
		{
			"event without a duration", &control.Event{Time: noon, Kind: control.EventInfo}, &control.Event{},
			`{"time":"2026-05-04T12:00:00Z","kind":"info"}`,
		},
		{
			"receipt", &control.Receipt{Service: "a", Old: control.List[control.Served]{{Instance: "a-1", Requests: 7}}, New: control.List[control.Served]{}, Took: 93826 * time.Microsecond}, &control.Receipt{},
			`{"service":"a","old":[{"instance":"a-1","requests":7}],"new":[],"failed":0,"took_seconds":0.093826}`,
		},
		{
			"receipt with traffic", &control.Receipt{
				Service: "a", Old: control.List[control.Served]{}, New: control.List[control.Served]{}, Took: time.Second,
				Traffic: &control.Traffic{Requests: 5, Failed: 1, Stall: 1500 * time.Microsecond, Connections: control.Carried{Before: 3, Kept: 2}},
			}, &control.Receipt{},
			`{"service":"a","old":[],"new":[],"failed":0,"took_seconds":1,"traffic":{"requests":5,"failed":1,"connections":{"before":3,"kept":2},"tunnels":{"before":0,"kept":0},"stall_seconds":0.0015}}`,
		},
		{
			"upgrade", &control.UpgradeReply{PID: 7, Version: "2", From: "1", Took: 2 * time.Second, NoBus: 1500 * time.Microsecond, Missing: control.List[string]{}}, &control.UpgradeReply{},
			`{"pid":7,"version":"2","from":"1","missing":[],"finishing":{"connections":0,"requests":0,"tunnels":0},"took_seconds":2,"bus_seconds":0.0015,"held_seconds":0}`,
		},
		{
			"request over the bus", &control.BusRequest{Subject: "a", Data: []byte("x"), Timeout: 1500 * time.Millisecond}, &control.BusRequest{},
			`{"subject":"a","data":"eA==","timeout_seconds":1.5}`,
		},
		{"reload", control.ReloadReply{}, nil, `{"revision":0,"changes":[],"replaces":[],"receipts":[]}`},
		{"service", control.ServiceStatus{Name: "a"}, nil, `{"name":"a","wanted":0,"ready":0,"override":null,"instances":[]}`},
		{"environment", control.EnvReply{Service: "a"}, nil, `{"service":"a","variables":[]}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := json.Marshal(tt.value)
			if err != nil {
				t.Fatal(err)
			}
			// json.Marshal escapes what the command does not.
			var shown any
			if err := json.Unmarshal(got, &shown); err != nil {
				t.Fatal(err)
			}
			var want any
			if err := json.Unmarshal([]byte(tt.want), &want); err != nil {
				t.Fatal(err)
			}
			if !cmp.Equal(shown, want) {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if tt.again == nil {
				return
			}
			if err := json.Unmarshal(got, tt.again); err != nil || !cmp.Equal(tt.again, tt.value) {
				t.Errorf("read again: %v, %v", err, cmp.Diff(tt.value, tt.again))
			}
		})
	}
}
