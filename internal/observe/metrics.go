package observe

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// scrapes bounds those that are answered at once; more get 503.
	scrapes = 4
	// mostCertificates bounds the series about certificates.
	mostCertificates = 200
)

// Metrics answers Prometheus's scrapes. read is called once for each, and must be
// safe for concurrent use. Whether the client may ask is the caller's to decide.
func Metrics(read func() Snapshot) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collector{read},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		MaxRequestsInFlight: scrapes,
		DisableCompression:  true, // the gateway compresses
		EnableOpenMetrics:   true,
		ErrorHandling:       promhttp.ContinueOnError, // one bad series hides no other
	})
}

// collector turns a snapshot into metrics.
type collector struct{ read func() Snapshot }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("fairlead_"+name, help, labels, nil)
}

// What is told.
var (
	infoDesc     = desc("info", "The version of fairlead that runs.", "version")
	revisionDesc = desc("revision", "The revision of the file that is served.")

	requestsDesc = desc("requests_total", "Requests that were answered, by route and class of status; none: broken off before a status.", "route", "class")
	durationDesc = desc("request_duration_seconds", "How long requests took until the end of their answer, upgraded connections left out.", "route")
	bytesDesc    = desc("answer_bytes_total", "Bytes of the bodies of answers.", "route")
	failedDesc   = desc("requests_failed_total", "Requests that the door itself answered 502, 503 or 504, or broke off.")
	openDesc     = desc("requests_open", "Requests that are being answered.")
	tunnelsDesc  = desc("tunnels_open", "Connections that were upgraded, as WebSockets are.")
	connsDesc    = desc("connections_open", "Connections of clients, by listener; http/3: those over UDP.", "listener")
	refusedDesc  = desc("refused_total", "Requests and connections that were not let in.", "reason")

	poolRequestsDesc  = desc("pool_requests_total", "Requests that were sent to a service over HTTP, each counted once.", "service")
	poolRetriesDesc   = desc("pool_retries_total", "Times that one was sent again.", "service")
	poolFailedDesc    = desc("pool_failed_total", "Requests for a service that the door itself answered 502, 503 or 504.", "service")
	poolRefusedDesc   = desc("pool_refused_total", "Of these, those for which the service had too much to do.", "service")
	poolEjectionsDesc = desc("pool_ejections_total", "Times that an instance was left alone because it failed.", "service")
	poolFaultsDesc    = desc("pool_faults_total", "Attempts that failed, by what was wrong.", "service", "fault")
	poolOpenDesc      = desc("pool_requests_open", "Requests and upgraded connections that are open at a service.", "service")
	poolWaitingDesc   = desc("pool_requests_waiting", "Requests that wait for an instance.", "service")
	poolQueuedDesc    = desc("pool_requests_queued", "Requests that wait because the service has too much to do.", "service")
	poolWaitDesc      = desc("pool_longest_wait_seconds", "Longest wait of a request that ended within the last minute.", "service")

	endRequestsDesc = desc("endpoint_requests_total", "Requests that were sent to a ready instance over HTTP.", "service", "instance")
	endFailuresDesc = desc("endpoint_failures_total", "Of these, those that failed.", "service", "instance")
	endOpenDesc     = desc("endpoint_requests_open", "Requests and upgraded connections that are open at a ready instance.", "service", "instance")
	endEjectedDesc  = desc("endpoint_ejected", "1 while a ready instance is left alone because it failed.", "service", "instance")

	wantedDesc    = desc("instances_wanted", "Instances that shall run.", "service")
	instancesDesc = desc("instances", "Instances, by state.", "service", "state")
	restartsDesc  = desc("restarts_total", "Instances that ended by themselves, or failed their health check.", "service")

	expiryDesc = desc("certificate_expiry_timestamp_seconds", "When a certificate runs out.", "name", "source")

	busConnsDesc    = desc("bus_connections", "Connections to the bus.")
	busSubsDesc     = desc("bus_subscriptions", "Subscriptions on the bus.")
	busMessagesDesc = desc("bus_messages_total", "Messages that clients sent to the bus (in), and it to them (out).", "direction")
	busBytesDesc    = desc("bus_bytes_total", "Bytes that clients sent to the bus (in), and it to them (out).", "direction")
	busSlowDesc     = desc("bus_slow_consumers_total", "Connections that were cut because they did not read.")
	busStoreDesc    = desc("bus_store_bytes", "Bytes in the streams of the bus.")
)

// Describe describes nothing: which series there are depends on the snapshot.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends the metrics of one snapshot.
func (c collector) Collect(to chan<- prometheus.Metric) {
	s := c.read()
	out := sink(to)
	out.gauge(infoDesc, 1, s.Version)
	out.gauge(revisionDesc, float64(s.Revision))
	out.door(&s.Door)
	for i := range s.Pools {
		out.pool(&s.Pools[i])
	}
	for _, svc := range s.Services {
		out.gauge(wantedDesc, float64(svc.Wanted), svc.Name)
		out.count(restartsDesc, svc.Restarts, svc.Name)
		for state, n := range svc.States {
			out.gauge(instancesDesc, float64(n), svc.Name, state)
		}
	}
	out.certificates(s.Certificates)
	if s.Bus != nil {
		out.bus(s.Bus)
	}
	out.queues(s.Queues)
}

// sink takes metrics.
type sink chan<- prometheus.Metric

func (to sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (to sink) count(d *prometheus.Desc, n uint64, labels ...string) {
	to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func (to sink) door(d *Door) {
	for i := range d.Routes {
		r := &d.Routes[i]
		for class, n := range r.Classes {
			if n == 0 {
				continue
			}
			name := "none"
			if class > 0 {
				name = strconv.Itoa(class) + "xx"
			}
			to.count(requestsDesc, n, r.Key, name)
		}
		var total uint64
		buckets := make(map[float64]uint64, len(d.Bounds))
		for at, n := range r.Within {
			total += n
			if at < len(d.Bounds) {
				buckets[d.Bounds[at].Seconds()] = total
			}
		}
		if total > 0 {
			to <- prometheus.MustNewConstHistogram(durationDesc, total, r.Took.Seconds(), buckets, r.Key)
		}
		if r.Bytes > 0 {
			to.count(bytesDesc, uint64(r.Bytes), r.Key)
		}
	}
	to.count(failedDesc, d.Failed)
	to.gauge(openDesc, float64(d.Open))
	to.gauge(tunnelsDesc, float64(d.Tunnels))
	for listener, n := range d.Connections {
		to.gauge(connsDesc, float64(n), listener)
	}
	for route, n := range d.Subscribers {
		to.gauge(subscribersDesc, float64(n), route)
	}
	for reason, n := range d.Refused {
		to.count(refusedDesc, n, reason)
	}
}

func (to sink) pool(p *Pool) {
	to.count(poolRequestsDesc, p.Requests, p.Service)
	to.count(poolRetriesDesc, p.Retries, p.Service)
	to.count(poolFailedDesc, p.Failed, p.Service)
	to.count(poolRefusedDesc, p.Refused, p.Service)
	to.count(poolEjectionsDesc, p.Ejections, p.Service)
	for kind, n := range p.Faults {
		to.count(poolFaultsDesc, n, p.Service, kind)
	}
	to.gauge(poolOpenDesc, float64(p.Open), p.Service)
	to.gauge(poolWaitingDesc, float64(p.Waiting), p.Service)
	to.gauge(poolQueuedDesc, float64(p.Queued), p.Service)
	to.gauge(poolWaitDesc, p.LongestWait.Seconds(), p.Service)
	for _, e := range p.Endpoints {
		to.count(endRequestsDesc, e.Requests, p.Service, e.Instance)
		to.count(endFailuresDesc, e.Failures, p.Service, e.Instance)
		to.gauge(endOpenDesc, float64(e.Open), p.Service, e.Instance)
		ejected := 0.0
		if e.Ejected {
			ejected = 1
		}
		to.gauge(endEjectedDesc, ejected, p.Service, e.Instance)
	}
}

// certificates tells when certificates run out, of each name the earliest.
func (to sink) certificates(all []Certificate) {
	type key struct{ name, source string }
	first := map[key]time.Time{}
	for _, c := range all {
		k := key{c.Name, c.Source}
		if was, ok := first[k]; c.Expires.IsZero() || ok && was.Before(c.Expires) || !ok && len(first) >= mostCertificates {
			continue
		}
		first[k] = c.Expires
	}
	for k, at := range first {
		to.gauge(expiryDesc, float64(at.Unix()), k.name, k.source)
	}
}

func (to sink) bus(b *Bus) {
	to.gauge(busConnsDesc, float64(b.Connections))
	to.gauge(busSubsDesc, float64(b.Subscriptions))
	to.count(busMessagesDesc, uint64(b.Received), "in")
	to.count(busMessagesDesc, uint64(b.Sent), "out")
	to.count(busBytesDesc, uint64(b.ReceivedBytes), "in")
	to.count(busBytesDesc, uint64(b.SentBytes), "out")
	to.count(busSlowDesc, uint64(b.SlowConsumers))
	to.gauge(busStoreDesc, float64(b.StoreBytes))
}
