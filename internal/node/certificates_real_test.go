//go:build real

package node

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"fairlead/internal/gateway/certs/pebble"
	"fairlead/test/await"
)

// The whole way: the file asks an authority, which looks at the door; what it gave is
// in the bucket, and shown by the next run although the authority is gone.
func TestRealPebbleNodeKeepsItsCertificate(t *testing.T) {
	f := newFixture(t)
	secure, plain := free(t), free(t)
	port := func(address string) int {
		_, p, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(p)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	authority := pebble.Start(t, port(plain), port(secure), 90*24*time.Hour)
	roots := authority.Roots(t)
	f.edit(`gateway: {listen: "127.0.0.1:0"}`, fmt.Sprintf(
		"gateway: {listen: [%q, {address: %q, redirect: true}], tls: {acme: {hosts: [shop.example], directory: %q, root: %q}}}",
		secure, plain, authority.Directory, authority.Root,
	))
	n := f.up()
	await.Until(t, "the certificate is shown", func() bool {
		code, err := status(secure, "shop.example", roots)
		return err == nil && code == http.StatusOK
	})
	if err := n.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	authority.Stop()
	f.up()
	if code, err := status(secure, "shop.example", roots); err != nil || code != http.StatusOK {
		t.Errorf("the next run: %d, %v", code, err)
	}
}
