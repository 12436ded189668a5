package outside

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

const (
	// firstFallback is how long a client has to begin with TLS before it is told the
	// INFO that the others wait for: what nats-server takes for "auto".
	firstFallback = 50 * time.Millisecond
	// recordHandshake is the first byte of TLS (RFC 8446, 5.1).
	recordHandshake = 0x16
	// maxConnect is the longest CONNECT, the server's longest line.
	maxConnect = 8 << 10
	// bufferSize is what is carried at once; there is one for each direction.
	bufferSize = 16 << 10
	// refusalPause is how long the place of a client whose password is wrong stays
	// taken, so that passwords are not tried by the thousand.
	refusalPause = time.Second

	keyClient = "client"
)

// What the server answers to a wrong name or password.
var refusal = []byte("-ERR 'Authorization Violation'")

// visit is one connection on its way to the server.
type visit struct {
	front    *Front
	from     netip.Addr
	by       time.Time // until when it must have said who it is
	stranger bool      // it holds a place of those who were not let in yet
}

// visit takes a place among the strangers, if there is one.
func (f *Front) visit(from netip.Addr) (*visit, bool) {
	if !f.strangers.enter(from) {
		f.opts.Logger.Debug("too many clients from outside have not said who they are", slog.String(keyClient, from.String()))
		return nil, false
	}
	return &visit{front: f, from: from, by: time.Now().Add(strangerTime), stranger: true}, true
}

// admitted gives the place back.
func (v *visit) admitted() {
	if v.stranger {
		v.stranger = false
		v.front.strangers.leave(v.from)
	}
}

// greet tells a client the server's INFO.
func (v *visit) greet(c net.Conn, encrypted bool) error {
	line, err := v.front.opts.Hello(encrypted)
	if err != nil {
		return err
	}
	_, err = c.Write(append(line, '\r', '\n'))
	return err
}

// carry reads who the client is, and lets it speak with the server then.
func (v *visit) carry(c net.Conn) {
	in := bufio.NewReaderSize(c, bufferSize)
	connect, err := readConnect(in)
	if err != nil {
		v.front.opts.Logger.Debug("a client from outside does not say who it is", slog.String(keyClient, v.from.String()), slog.String("reason", err.Error()))
		return
	}
	server, out, err := v.reach()
	if err != nil {
		return // it is suspended, or ends: clients come back
	}
	defer server.Close()
	if _, err := server.Write(connect); err != nil {
		return
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		v.answer(c, out)
		_ = c.Close() // the server has ended it
	}()
	_, _ = in.WriteTo(server) // until one side ends, which is no failure
	_ = server.Close()        // the client has ended it
	<-answered
}

// reach connects to the server, whose INFO the client knows already.
func (v *visit) reach() (net.Conn, *bufio.Reader, error) {
	server, err := v.front.opts.Dial()
	if err != nil {
		return nil, nil, err
	}
	out := bufio.NewReaderSize(server, bufferSize)
	err = server.SetReadDeadline(v.by)
	if err == nil {
		_, err = out.ReadSlice('\n')
	}
	if err == nil {
		err = server.SetReadDeadline(time.Time{})
	}
	if err != nil {
		return nil, nil, errors.Join(err, server.Close())
	}
	return server, out, nil
}

// answer carries what the server says. Its first words tell whether the client is let
// in.
func (v *visit) answer(c net.Conn, out *bufio.Reader) {
	first, err := out.Peek(1)
	if err == nil {
		first, err = out.Peek(min(out.Buffered(), len(refusal)))
	}
	if err != nil {
		return
	}
	if bytes.Equal(first, refusal) {
		v.front.opts.Logger.Warn("bus refuses a client from outside", slog.String(keyClient, v.from.String()))
		v.stranger = false
		time.AfterFunc(refusalPause, func() { v.front.strangers.leave(v.from) })
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return
	}
	v.admitted()
	_, _ = out.WriteTo(c) // until one side ends, which is no failure
}

// readConnect reads the line with which a client says who it is.
func readConnect(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	switch {
	case errors.Is(err, io.EOF) && len(line) == 0:
		return nil, errors.New("it has left")
	case err != nil:
		return nil, fmt.Errorf("no line came: %w", err)
	case len(line) > maxConnect:
		return nil, fmt.Errorf("its first line has %d bytes", len(line))
	case len(line) < 8 || !bytes.EqualFold(line[:7], []byte("CONNECT")) || line[7] != ' ' && line[7] != '\t':
		return nil, errors.New("its first line is no CONNECT")
	}
	return bytes.Clone(line), nil
}

// beginsWithTLS reports whether a client begins with TLS, and returns the connection
// with what was read of it. One that waits for the server to begin gets its time.
func beginsWithTLS(c net.Conn) (bool, net.Conn) {
	deadline := time.Now().Add(firstFallback)
	if err := c.SetReadDeadline(deadline); err != nil {
		return false, c
	}
	var b [1]byte
	n, _ := c.Read(b[:]) // an error shows again when the client is spoken to
	_ = c.SetReadDeadline(deadline.Add(strangerTime - firstFallback))
	if n == 0 {
		return false, c
	}
	return b[0] == recordHandshake, &begun{Conn: c, head: b[:]}
}

// begun is a connection of which the first byte has been read.
type begun struct {
	net.Conn
	head []byte
}

// Read implements [net.Conn].
func (b *begun) Read(p []byte) (int, error) {
	if len(b.head) > 0 && len(p) > 0 {
		n := copy(p, b.head)
		b.head = b.head[n:]
		return n, nil
	}
	return b.Conn.Read(p)
}
