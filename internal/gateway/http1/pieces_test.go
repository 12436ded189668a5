package http1

import (
	"bytes"
	"io"
	"net"
	"time"
)

// pieces is a connection that brings one byte at a time.
type pieces struct {
	in   string
	size int // of a piece
	out  bytes.Buffer
}

func newPieces(in string) *pieces { return &pieces{in: in, size: 1} }

func (p *pieces) Read(b []byte) (int, error) {
	if p.in == "" {
		return 0, io.EOF
	}
	n := copy(b, p.in[:min(p.size, len(p.in))])
	p.in = p.in[n:]
	return n, nil
}

func (p *pieces) Write(b []byte) (int, error)      { return p.out.Write(b) }
func (p *pieces) Close() error                     { return nil }
func (p *pieces) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (p *pieces) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (p *pieces) SetDeadline(time.Time) error      { return nil }
func (p *pieces) SetReadDeadline(time.Time) error  { return nil }
func (p *pieces) SetWriteDeadline(time.Time) error { return nil }
