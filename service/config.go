package service

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"fairlead/internal/wire"
)

const (
	defaultGrace   = 10 * time.Second
	maxGraceMargin = time.Second
	// envLogLevel is the variable a system sets in a service's environment.
	envLogLevel = "LOG_LEVEL"
)

// config is what the environment says.
type config struct {
	system, service, instance string
	group                     string
	identityKey               ed25519.PublicKey // nil: no identity can be verified
	grace                     time.Duration
	level                     slog.Level

	socket, port string // where to listen, at most one is set

	busURL, busUser, busPassword, busInbox string

	node   bool     // a node tells which queues there are
	queues []string // that there are at the start
}

// readConfig reads the environment and reports everything that is wrong with it.
func readConfig(lookup func(string) (string, bool)) (config, error) {
	env := func(name, fallback string) string {
		if v, ok := lookup(name); ok && v != "" {
			return v
		}
		return fallback
	}
	c := config{
		system:      env(wire.EnvSystem, "local"),
		service:     env(wire.EnvService, "service"),
		grace:       defaultGrace,
		level:       slog.LevelInfo,
		socket:      env(wire.EnvSocket, ""),
		port:        env(wire.EnvPort, ""),
		busURL:      env(wire.EnvNATSURL, ""),
		busUser:     env(wire.EnvNATSUser, ""),
		busPassword: env(wire.EnvNATSPass, ""),
		busInbox:    env(wire.EnvNATSInbox, ""),
	}
	c.instance = env(wire.EnvInstance, fmt.Sprintf("%s-%d", c.service, os.Getpid()))
	c.group = env(wire.EnvGroup, c.service)
	if c.socket != "" {
		c.port = ""
	}
	if v, ok := lookup(wire.EnvQueues); ok {
		c.node, c.queues = true, strings.Fields(v)
	}

	var errs []error
	if v := env(wire.EnvIdentityKey, ""); v != "" {
		key, err := wire.DecodeKey(v)
		if err != nil {
			errs = append(errs, fmt.Errorf("read %s: %w", wire.EnvIdentityKey, err))
		}
		c.identityKey = key
	}
	if v := env(wire.EnvGrace, ""); v != "" {
		d, err := time.ParseDuration(v)
		if err == nil && d <= 0 {
			err = errors.New("must be above zero")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read %s: %w", wire.EnvGrace, err))
		} else {
			c.grace = d
		}
	}
	if v := env(envLogLevel, ""); v != "" {
		if err := c.level.UnmarshalText([]byte(v)); err != nil {
			errs = append(errs, fmt.Errorf("read %s: must be debug, info, warn or error: %w", envLogLevel, err))
		}
	}
	if c.port != "" {
		if n, err := strconv.ParseUint(c.port, 10, 16); err != nil || n == 0 {
			errs = append(errs, fmt.Errorf("read %s: must be a port, is %q", wire.EnvPort, c.port))
		}
	}
	for _, token := range []struct{ name, value string }{
		{wire.EnvService, c.service},
		{wire.EnvInstance, c.instance},
	} {
		if strings.ContainsAny(token.value, ". *>\t\r\n") {
			errs = append(errs, fmt.Errorf("read %s: must be one token of a subject, is %q", token.name, token.value))
		}
	}
	return c, errors.Join(errs...)
}

// margin is the end of the grace period that is kept for closing.
func (c config) margin() time.Duration {
	return min(c.grace/5, maxGraceMargin)
}
