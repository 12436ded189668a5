package node

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/nats-io/nats.go"

	"fairlead/internal/control"
	"fairlead/internal/gateway/certs"
)

// certificatesBucket is where certificates of an authority are kept: all nodes of a
// bus share them.
const certificatesBucket = "certificates"

// openCertificates opens what the door shows. The bucket is made when the file first
// asks an authority.
func (n *Node) openCertificates() (err error) {
	dir := filepath.Join(n.data, "certificates")
	n.certs, err = certs.Open(certs.Options{
		Dir: dir, Logger: n.log,
		Storage: func(ctx context.Context) (certs.Storage, error) { return openCertificatesBucket(ctx, n.operator, dir) },
		Warn:    func(text string) { n.tell(control.Event{Kind: control.EventWarning, Text: text}) },
	})
	if err != nil {
		return err
	}
	n.onStop("certificates", func(context.Context) error { return n.certs.Close() })
	return nil
}

func openCertificatesBucket(ctx context.Context, nc *nats.Conn, dir string) (certs.Storage, error) {
	kv, err := openBucket(ctx, nc, certificatesBucket, "certificates of the door, encrypted")
	if err != nil {
		return nil, fmt.Errorf("open storage of certificates: %w", err)
	}
	return certs.OpenBucket(kv, filepath.Join(dir, "bucket.key"))
}
