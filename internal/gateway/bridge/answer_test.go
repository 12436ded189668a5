package bridge

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
)

func TestAnswer(t *testing.T) {
	raw := &Route{errors: map[string]int{"teapot": 418}}
	nest := &Route{nest: true}
	headers := func(pairs ...string) *nats.Msg {
		m := nats.NewMsg("x")
		for i := 0; i < len(pairs); i += 2 {
			m.Header.Set(pairs[i], pairs[i+1])
		}
		m.Data = []byte("data")
		return m
	}
	stream := func(replies ...string) (s nestStream) {
		for _, r := range replies {
			if _, _, err := s.add([]byte(r)); err != nil {
				t.Fatal(err)
			}
		}
		return s
	}
	tests := []struct {
		name  string
		route *Route
		reply reply
		want  Answer
	}{
		{"raw", raw, reply{msg: headers()}, Answer{Status: 200, Data: []byte("data")}},
		{"raw, nothing", raw, reply{msg: &nats.Msg{}}, Answer{Status: 204}},
		{"raw with a status and a type", raw, reply{msg: headers(wire.HeaderStatus, "201", wire.HeaderType, "text/csv")}, Answer{Status: 201, Media: "text/csv", Data: []byte("data")}},
		{"raw with the status of a redirect", raw, reply{msg: headers(wire.HeaderStatus, "302")}, Answer{Status: 200, Data: []byte("data")}},
		{"raw with a status that is none", raw, reply{msg: headers(wire.HeaderStatus, "x")}, Answer{Status: 200, Data: []byte("data")}},
		{"raw error", raw, reply{msg: headers(wire.HeaderError, "dup", wire.HeaderErrorCode, "409")}, Answer{Fault: true, Status: 409, Message: "dup"}},
		{"raw error without a code", raw, reply{msg: headers(wire.HeaderError, "dup")}, Answer{Fault: true, Status: 502, Message: "dup"}},
		{"raw error without a text", raw, reply{msg: headers(wire.HeaderErrorCode, "404")}, Answer{Fault: true, Status: 404}},
		{"raw error of the route", raw, reply{msg: headers(wire.HeaderError, "teapot", wire.HeaderErrorCode, "500")}, Answer{Fault: true, Status: 418, Message: "teapot"}},
		{"text that clients are not told as it is", raw, reply{msg: headers(wire.HeaderErrorCode, "400", wire.HeaderError, "a\tb\xff")}, Answer{Fault: true, Status: 400, Message: "a b?"}},
		{"long text", raw, reply{msg: headers(wire.HeaderErrorCode, "400", wire.HeaderError, strings.Repeat("x", 2*publicBytes))}, Answer{Fault: true, Status: 400, Message: strings.Repeat("x", publicBytes) + "..."}},
		{"nest, nothing", nest, reply{}, Answer{Status: 204}},
		{"nest", nest, reply{stream: stream(`{"response":{"a":1}}`)}, Answer{Status: 200, Data: []byte(`{"a":1}`)}},
		{"nest, several", nest, reply{stream: stream(`{"response":1}`, `{"response":2}`)}, Answer{Status: 200, Data: []byte(`[1,2]`)}},
		{"nest error", nest, reply{fault: []byte(`{"status":403,"message":"no"}`)}, Answer{Fault: true, Status: 403, Message: "no"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.reply.answer(tt.route)
			if got.Status != tt.want.Status || got.Media != tt.want.Media || string(got.Data) != string(tt.want.Data) || got.Fault != tt.want.Fault || got.Message != tt.want.Message {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}
