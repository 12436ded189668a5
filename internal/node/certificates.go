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
		Storage: func(ctx context.Context) (certs.Storage, error) {
			return openCertificatesBucket(ctx, n.operator, n.keeping(), dir)
		},
		Warn: func(text string) { n.tell(control.Event{Kind: control.EventWarning, Text: text}) },
		Made: func(root string) { n.tell(control.Event{Kind: control.EventRoot, Text: root}) },
	})
	if err != nil {
		return err
	}
	n.onStop("certificates", func(context.Context) error { return n.certs.Close() })
	return nil
}

func openCertificatesBucket(ctx context.Context, nc *nats.Conn, k keeping, dir string) (certs.Storage, error) {
	kv, err := openBucket(ctx, nc, k, certificatesBucket, "certificates of the door, encrypted")
	if err != nil {
		return nil, fmt.Errorf("open storage of certificates: %w", err)
	}
	return certs.OpenBucket(kv, filepath.Join(dir, "bucket.key"))
}

// certificates says what the door shows.
func (n *Node) certificates() control.List[control.Certificate] {
	var list control.List[control.Certificate]
	for _, c := range n.certs.Status() {
		list = append(list, control.Certificate{Names: c.Names, Source: string(c.Source), File: c.File, Expires: c.NotAfter, Problem: c.Problem})
	}
	return list
}
