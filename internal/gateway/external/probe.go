package external

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"

	"fairlead/internal/system"
)

// maxProbeBody is what is read of the answer to a probe.
const maxProbeBody = 4 << 10

// probe asks whether a target is well.
func probe(ctx context.Context, def *system.Service, t target) error {
	var d net.Dialer
	if def.Healthcheck.HTTP == "" {
		c, err := d.DialContext(ctx, "tcp", t.address)
		if err != nil {
			return err
		}
		return c.Close()
	}
	var protocols http.Protocols
	protocols.SetHTTP1(def.Pool.Protocol != system.H2C)
	protocols.SetUnencryptedHTTP2(def.Pool.Protocol == system.H2C)
	tr := &http.Transport{
		Protocols: &protocols, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "tcp", t.address) },
	}
	defer tr.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.name+def.Healthcheck.HTTP, nil)
	if err != nil {
		return err
	}
	res, err := tr.RoundTrip(r)
	if err != nil {
		return err
	}
	_, _ = io.CopyN(io.Discard, res.Body, maxProbeBody) // the status says it all
	if err := res.Body.Close(); err != nil {
		return err
	}
	if res.StatusCode < http.StatusOK || res.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("GET %s: %s", def.Healthcheck.HTTP, res.Status)
	}
	return nil
}
