package node

import (
	"os"

	"fairlead/internal/bus/link"
	"fairlead/internal/system"
)

// elsewhere is the server that keeps what the bus keeps, with the values of the
// secrets that lead there; nil: the data folder does.
func (n *Node) elsewhere() (*link.Server, error) {
	s := n.first.Bus.Server
	if s == nil {
		return nil, nil
	}
	var values map[string]string
	if o := n.opts.Offer; o != nil {
		values = n.host.secrets(o.offer.Applied) // this process may not have them
	} else {
		var wanted []system.Secret
		for _, secret := range n.first.Secrets {
			switch secret.Name {
			case s.URLSecret, s.Credentials, s.SigningKey:
				wanted = append(wanted, secret)
			}
		}
		var err error
		if values, _, err = n.secrets.Resolve(wanted, os.LookupEnv); err != nil {
			return nil, err
		}
	}
	there := &link.Server{URL: s.URL, Credentials: values[s.Credentials], SigningKey: values[s.SigningKey], Account: s.Account}
	if s.URLSecret != "" {
		there.URL = values[s.URLSecret]
	}
	return there, nil
}

// keeping says how the node's own state is kept: on as many servers as the queue that
// is kept on the most.
func (n *Node) keeping() keeping {
	k := keeping{system: n.first.Name, elsewhere: n.first.Bus.Server != nil, replicas: 1}
	for i := range n.first.Queues {
		k.replicas = max(k.replicas, n.first.Queues[i].Replicas)
	}
	return k
}

// elsewhereOf is where the model says that the bus's store is; zero: in the data folder.
func elsewhereOf(sys *system.System) system.BusServer {
	if sys.Bus.Server == nil {
		return system.BusServer{}
	}
	return *sys.Bus.Server
}

// storeName names that place to a person, and who the system is there, without a secret.
func storeName(sys *system.System) string {
	s := elsewhereOf(sys)
	if s == (system.BusServer{}) {
		return "the data folder"
	}
	name := s.URL
	if name == "" {
		name = "the URL in the secret " + s.URLSecret
	}
	for _, who := range []struct{ key, value string }{
		{"credentials", s.Credentials}, {"signing_key", s.SigningKey}, {"account", s.Account},
	} {
		if who.value != "" {
			name += ", " + who.key + " " + who.value
		}
	}
	return name
}
