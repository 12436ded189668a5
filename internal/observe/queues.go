package observe

const (
	// mostQueues and mostConsumers bound the series about queues: those that are not in
	// the file any more, and consumers that clients have named, count too.
	mostQueues    = 500
	mostConsumers = 1000
)

var (
	subscribersDesc = desc("subscribers", "Clients that are connected to a route that subscribes.", "route")

	queueMessagesDesc = desc("queue_messages", "Messages that a queue holds.", "queue")
	queueBytesDesc    = desc("queue_bytes", "Bytes that a queue holds.", "queue")
	queueDeadDesc     = desc("queue_dead_letters", "Dead letters of a queue.", "queue")
	queueCheckedDesc  = desc("queue_checked_total", "Messages for a queue that were looked at: accepted, refused, quarantined; observed: accepted though they do not satisfy the type.", "queue", "result")

	consumerBehindDesc  = desc("consumer_behind", "Messages that a durable consumer was not given yet.", "queue", "consumer")
	consumerUnackedDesc = desc("consumer_unacked", "Messages that a durable consumer was given and did not acknowledge.", "queue", "consumer")
	consumerRepeatDesc  = desc("consumer_repeated", "Of these, those that it was given again.", "queue", "consumer")
)

func (to sink) queues(all []Queue) {
	left := mostConsumers
	for i := range all[:min(len(all), mostQueues)] {
		q := &all[i]
		to.gauge(queueMessagesDesc, float64(q.Messages), q.Name)
		to.gauge(queueBytesDesc, float64(q.Bytes), q.Name)
		to.gauge(queueDeadDesc, float64(q.Dead), q.Name)
		for result, n := range map[string]uint64{"accepted": q.Accepted, "refused": q.Refused, "quarantined": q.Quarantined, "observed": q.Observed} {
			to.count(queueCheckedDesc, n, q.Name, result)
		}
		for _, c := range q.Consumers[:min(len(q.Consumers), left)] {
			left--
			to.gauge(consumerBehindDesc, float64(c.Behind), q.Name, c.Name)
			to.gauge(consumerUnackedDesc, float64(c.Unacked), q.Name, c.Name)
			to.gauge(consumerRepeatDesc, float64(c.Repeat), q.Name, c.Name)
		}
	}
}
