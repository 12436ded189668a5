package service

import (
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"fairlead/internal/wire"
)

// microVersion stands where micro wants a semantic version; what runs is told by the
// revision in fairlead's status.
const microVersion = "0.0.0"

// registerMicro answers the verbs of the micro protocol. micro's own service is not
// used because it runs handlers one after the other and counts the time until they
// return, which for ours is the time to start a goroutine.
func (s *Service) registerMicro() {
	started := time.Now().UTC()
	identity := micro.ServiceIdentity{
		Name:     s.config.service,
		ID:       s.config.instance,
		Version:  microVersion,
		Metadata: map[string]string{"system": s.config.system},
	}
	for verb, answer := range map[micro.Verb]func() any{
		micro.PingVerb: func() any {
			return micro.Ping{ServiceIdentity: identity, Type: micro.PingResponseType}
		},
		micro.InfoVerb: func() any {
			info := micro.Info{ServiceIdentity: identity, Type: micro.InfoResponseType, Endpoints: []micro.EndpointInfo{}}
			for _, e := range s.endpoints {
				info.Endpoints = append(info.Endpoints, micro.EndpointInfo{Name: e.name(), Subject: e.subject, QueueGroup: e.group})
			}
			return info
		},
		micro.StatsVerb: func() any {
			stats := micro.Stats{ServiceIdentity: identity, Type: micro.StatsResponseType, Started: started, Endpoints: []*micro.EndpointStats{}}
			for _, e := range s.endpoints {
				stats.Endpoints = append(stats.Endpoints, e.stats())
			}
			return stats
		},
	} {
		for _, to := range [][2]string{{"", ""}, {identity.Name, ""}, {identity.Name, identity.ID}} {
			subject, err := micro.ControlSubject(verb, to[0], to[1])
			if err == nil {
				_, err = s.conn.Subscribe(subject, func(m *nats.Msg) { s.tell(m, answer()) })
			}
			if err != nil {
				s.logger.Warn("service is not visible to micro tools", wire.KeySubject, subject, wire.KeyError, err)
			}
		}
	}
}

func (s *Service) tell(m *nats.Msg, v any) {
	if s.confineReply(m); m.Reply == "" {
		return
	}
	b, err := json.Marshal(v)
	if err == nil {
		err = m.Respond(b)
	}
	if err != nil {
		s.logger.Warn("micro reply not sent", wire.KeySubject, m.Subject, wire.KeyError, err)
	}
}
