package node

import (
	"os"
	"slices"
	"strings"

	"fairlead/internal/control"
	"fairlead/internal/supervise/process"
	"fairlead/internal/system"
	"fairlead/internal/wire"
)

// variables lists what an instance of svc is given and where each comes from.
// It holds no value of a secret.
func variables(svc *system.Service) []control.Variable {
	by := map[string]control.Variable{}
	add := func(v control.Variable) { by[v.Name] = v }
	for _, name := range passed {
		if v, ok := os.LookupEnv(name); ok {
			add(control.Variable{Name: name, Source: "shell", Value: v})
		}
	}
	for name, v := range svc.Environment {
		add(control.Variable{Name: name, Source: "file", Value: v})
	}
	for _, name := range svc.Secrets {
		add(control.Variable{Name: name, Source: "secret " + name, Secret: true})
		add(control.Variable{Name: name + "_FILE", Source: "secret " + name})
	}
	for _, name := range svc.Databases {
		source := "database " + name
		add(control.Variable{Name: databaseVariable(name), Source: source, Secret: true})
		if len(svc.Databases) == 1 {
			add(control.Variable{Name: wire.EnvDatabaseURL, Source: source, Secret: true})
		}
	}
	own := []string{wire.EnvSystem, wire.EnvService, wire.EnvInstance, wire.EnvIdentityKey, wire.EnvGrace, wire.EnvPort, wire.EnvSocket, process.EnvData}
	if svc.Bus != nil {
		own = append(own, wire.EnvNATSURL, wire.EnvNATSUser, wire.EnvNATSInbox, wire.EnvQueues)
		add(control.Variable{Name: wire.EnvNATSPass, Source: "fairlead", Secret: true})
		if svc.Bus.Group != "" {
			own = append(own, wire.EnvGroup)
		}
	}
	for _, name := range own {
		add(control.Variable{Name: name, Source: "fairlead"})
	}
	list := make([]control.Variable, 0, len(by))
	for _, v := range by {
		list = append(list, v)
	}
	slices.SortFunc(list, func(a, b control.Variable) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// databaseVariable names the variable that holds a database's URL.
func databaseVariable(name string) string {
	return wire.EnvDatabaseURL + "_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}
