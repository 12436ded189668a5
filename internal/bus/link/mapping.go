package link

import (
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// api is where the JetStream of a domain is asked from elsewhere.
func api(domain string) string { return "$JS." + domain + ".API." }

// Mappings are what the bus's server must map, so that its clients reach JetStream
// elsewhere as if it were here: the API, and the writes of key-value buckets, which a
// leaf node's link takes by the domain's name only.
func Mappings(p Place) map[string]string {
	return map[string]string{
		"$JS.API.>": api(p.Domain) + ">",
		"$KV.>":     api(p.Domain) + "$KV.>",
	}
}

// API is where a subject of JetStream's API is that clients ask here.
func API(p Place, subject string) string {
	if rest, ok := strings.CutPrefix(subject, "$JS.API."); ok {
		return api(p.Domain) + rest
	}
	return subject
}

// Redirect makes permissions to publish hold for what [Mappings] makes of a subject:
// the server compares with that.
func Redirect(p Place, perms *server.Permissions) {
	if perms == nil || perms.Publish == nil {
		return
	}
	redirect := func(subjects []string) {
		for i, s := range subjects {
			subjects[i] = API(p, s)
			if strings.HasPrefix(s, "$KV.") {
				subjects[i] = api(p.Domain) + s
			}
		}
	}
	redirect(perms.Publish.Allow)
	redirect(perms.Publish.Deny)
}
