// Package service is what a Go program imports to be a service of a fairlead
// system: it answers requests on the bus, serves HTTP behind the gateway, asks
// other services, publishes and subscribes, and knows the user of a request.
//
//	func main() {
//		service.Main(func(s *service.Service) error {
//			flows := openFlows(s.Database("trade"))
//			service.Answer(s, "tradeflow.find", flows.Find)
//			s.HTTP("POST /api/flows/import", flows.Import)
//			return nil
//		})
//	}
//
// # Guarantees
//
// Everything that the program needs comes from its environment, which fairlead
// sets. No start order: a service waits for the bus, and asks wait for the asked.
//
// Handlers run concurrently, at most 64 of each Answer at a time unless
// [AnswerOptions] say otherwise; more requests wait in order, and what cannot wait
// is answered with 503. Every request gets exactly one reply: an error has a status
// and a public text, see [Error]; a database that is locked, full or read-only is
// 503 by itself; any other error, and a panic, is "internal error" for the client.
// The cause is logged. A reply that is too large for the bus
// becomes an error instead of silence.
//
// The context of a handler ends at the request's deadline, and when the grace
// period of a stop is over. It carries the user, the request id and the trace;
// records logged with it by [Service.Logger] hold them too. A request whose
// identity token is not good is refused with 401, never taken for anonymous.
//
// On SIGTERM the program stops taking requests, finishes those it has, flushes, and
// exits with 0. If the connection to the bus is lost it is made again within 50 ms
// of the bus being back, with all subscriptions. Before fairlead takes the bus away for
// a moment, to be upgraded, it says so: what is asked and stored then waits until the bus
// is back, unless it is asked to answer a request, with the context of its handler, and
// what is under way is answered first. So nothing of it is lost or done twice.
//
// The service answers the PING, INFO and STATS of the micro protocol, so that the
// `nats micro` tools see it. Its statistics cover the whole time of each handler.
//
// # What it does not do
//
// No retries of what may have been done: an Ask is sent again only while nobody was
// there to receive it. Messages are at most once, unless a queue of the file keeps
// them: then [Publish] returns when they are stored, and [Subscribe] with a name is at
// least once, never exactly once. It does not speak NestJS's envelope. It does not limit the size of HTTP
// bodies, which the gateway does. It does not forward a user's identity: a token is
// for one service, see [Ask].
package service
