package node

import (
	"context"
	"net/http"
	"time"

	"fairlead/internal/bus/catalogue"
	"fairlead/internal/gateway/meter"
	"fairlead/internal/observe"
	"fairlead/internal/supervise"
	"fairlead/internal/system"
	"fairlead/internal/wire"
	"fairlead/web"
)

// observeTime bounds what a scrape waits for the queues.
const observeTime = 5 * time.Second

// monitors are what fairlead itself answers on routes that say monitor, besides
// what the gateway knows alone.
func (n *Node) monitors() map[system.Monitor]http.Handler {
	return map[system.Monitor]http.Handler{
		system.MonitorBus:       n.bus.Monitor(),
		system.MonitorMetrics:   observe.Metrics(n.snapshot),
		system.MonitorCatalogue: http.HandlerFunc(n.tellCatalogue),
		system.MonitorClient:    web.Client(),
	}
}

// snapshot is what a scrape reads.
func (n *Node) snapshot() observe.Snapshot {
	s := observe.Snapshot{Version: n.opts.Version, Door: n.observeDoor(), Pools: n.observePools(), Services: n.observeServices()}
	if r := n.current(); r != nil {
		s.Revision = r.Number
	}
	for _, c := range n.certs.Status() {
		if len(c.Names) > 0 {
			s.Certificates = append(s.Certificates, observe.Certificate{Name: c.Names[0], Source: string(c.Source), Expires: c.NotAfter})
		}
	}
	if l, err := n.bus.Load(); err == nil { // else it is being handed over
		s.Bus = &observe.Bus{
			Connections: l.Connections, Subscriptions: l.Subscriptions,
			Received: l.ReceivedMessages, Sent: l.SentMessages, ReceivedBytes: l.ReceivedBytes, SentBytes: l.SentBytes,
			SlowConsumers: l.SlowConsumers, StoreBytes: l.StoreBytes,
		}
		s.Queues = n.observeQueues()
	}
	return s
}

func (n *Node) observeDoor() observe.Door {
	c, open := n.gate.Counts(), n.gate.Open()
	if c.HTTP3 > 0 {
		c.Connections["http/3"] = c.HTTP3
	}
	d := observe.Door{
		Bounds: meter.Bounds[:], Failed: c.Failed, Open: open.Requests, Tunnels: open.Tunnels, Connections: c.Connections, Refused: n.gate.Refused(),
		Subscribers: n.gate.Subscribers(),
	}
	for i := range c.Routes {
		r := &c.Routes[i]
		d.Routes = append(d.Routes, observe.Route{Key: r.Route, Classes: r.Classes, Within: r.Within[:], Took: r.Took, Bytes: r.Bytes})
	}
	return d
}

// observeQueues returns how the queues stand, none if they cannot tell it in time.
func (n *Node) observeQueues() []observe.Queue {
	ctx, cancel := context.WithTimeout(context.Background(), observeTime)
	defer cancel()
	all, err := n.readQueues(ctx)
	if err != nil {
		n.log.WarnContext(ctx, "queues left out of the metrics", wire.KeyError, err)
		return nil
	}
	return all
}

func (n *Node) readQueues(ctx context.Context) ([]observe.Queue, error) {
	js, states, err := n.queueStates(ctx)
	if err != nil {
		return nil, err
	}
	counts := n.bus.Refused()
	all := make([]observe.Queue, len(states))
	for i := range states {
		s, c := &states[i], counts[states[i].Queue]
		all[i] = observe.Queue{
			Name: s.Queue, Messages: s.Messages, Bytes: s.Bytes,
			Accepted: c.Accepted, Refused: c.Refused, Quarantined: c.Quarantined, Observed: c.Observed,
		}
		if all[i].Dead, err = countDead(ctx, js, *s); err != nil {
			return nil, err
		}
		if s.Consumers == 0 {
			continue
		}
		of, err := n.consumers(ctx, js, catalogue.Stream(s.Queue))
		if err != nil {
			return nil, err
		}
		for _, c := range of {
			all[i].Consumers = append(all[i].Consumers, observe.Consumer{Name: c.Name, Behind: c.Lag, Unacked: c.Unacked, Repeat: c.Again})
		}
	}
	return all, nil
}

func (n *Node) observePools() []observe.Pool {
	now := time.Now()
	all := n.gate.Pools()
	pools := make([]observe.Pool, len(all))
	for i := range all {
		p := &all[i]
		pools[i] = observe.Pool{
			Service: p.Service, Requests: p.Requests, Retries: p.Retries, Failed: p.Failed, Refused: p.Refused, Ejections: p.Ejections,
			Faults: map[string]uint64{"connect": p.Faults.Connect, "broken": p.Faults.Broken, "timeout": p.Faults.Timeout, "status": p.Faults.Status},
			Open:   p.Open, Waiting: p.Waiting, Queued: p.Queued, LongestWait: p.LongestWait,
		}
		for _, e := range p.Endpoints {
			pools[i].Endpoints = append(pools[i].Endpoints, observe.Endpoint{
				Instance: e.Instance, Open: e.Open, Requests: e.Requests, Failures: e.Failures, Ejected: e.Ejected.After(now),
			})
		}
	}
	return pools
}

func (n *Node) observeServices() []observe.Service {
	r := n.current()
	if r == nil {
		return nil
	}
	states := map[string]map[string]int{}
	for _, i := range n.sup.Instances() {
		if states[i.Service] == nil {
			states[i.Service] = map[string]int{}
		}
		states[i.Service][string(i.State)]++
	}
	var services []observe.Service
	for i := range r.sys.Services {
		svc := &r.sys.Services[i]
		if len(svc.External) > 0 {
			continue
		}
		wanted := n.replicas(svc)
		n.mu.Lock()
		restarts := n.restarts[svc.Name]
		n.mu.Unlock()
		services = append(services, observe.Service{Name: svc.Name, Wanted: wanted, States: states[svc.Name], Restarts: restarts})
	}
	return services
}

// countRestart counts instances that ended by themselves, or were ended because
// they did not do well.
func (n *Node) countRestart(e supervise.Event) {
	if e.Kind != supervise.Backoff && e.Kind != supervise.Failed {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.restarts == nil {
		n.restarts = map[string]uint64{}
	}
	n.restarts[e.Instance.Service]++
}
