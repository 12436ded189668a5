package gateway

import (
	"io"
	"net"
	"net/http"
	"time"

	"fairlead/internal/gateway/hop"
	"fairlead/internal/gateway/lasting"
	"fairlead/internal/gateway/upstream"
)

// receiver is an exchange as the one who gets a service's answer.
type receiver exchange

var _ upstream.Receiver = (*receiver)(nil)

// Header returns the header of the answer.
func (v *receiver) Header() http.Header { return v.answer.Header() }

// WriteHeader writes the head.
func (v *receiver) WriteHeader(status int) { v.answer.WriteHeader(status) }

// Write writes a part of the body.
func (v *receiver) Write(b []byte) (int, error) { return v.answer.Write(b) }

// ReadFrom lets the kernel copy a part of the body.
func (v *receiver) ReadFrom(src io.Reader) (int64, error) { return v.answer.ReadFrom(src) }

// Direct says that nothing compresses, encrypts or slows the answer: where nobody has to
// look at the bytes, they need not be copied.
func (v *receiver) Direct() bool {
	a := &v.answer
	return a.r != nil && a.r.ProtoMajor == 1 && a.r.TLS == nil && a.coder == nil && !a.pace.slow
}

// Flush sends what is buffered.
func (v *receiver) Flush() { v.answer.Flush() }

// Duplex lets the body be read while the answer is written.
func (v *receiver) Duplex() {
	_ = v.answer.control.EnableFullDuplex() // a connection that cannot is a test's
}

// PassesTrailer says what the route's rules leave of a request's trailers.
func (v *receiver) PassesTrailer(name string) bool { return (*exchange)(v).trailerPasses(name) }

// Halt stops the reading of the body. HTTP/2's and HTTP/3's servers may take what
// follows for a client that has left.
func (v *receiver) Halt() {
	x := (*exchange)(v)
	x.left = x.clientLeft(x.answer.r)
	x.halted = true
	_ = x.answer.control.SetReadDeadline(past) // a connection without deadlines is a test's
}

// past makes every pending operation of a connection time out.
var past = time.Unix(1, 0)

// Lasts lets drains, stops and bans end a stream.
func (v *receiver) Lasts(s *lasting.Stream) { v.g.lasting.Add(s, (*exchange)(v).ends()) }

// Ended is for a stream that is over.
func (v *receiver) Ended(s *lasting.Stream) { v.g.lasting.Remove(s) }

// ends are whom what lasts of an exchange is between.
func (x *exchange) ends() lasting.Ends {
	return lasting.Ends{Client: x.origin.Client, Place: &x.endpoint.place}
}

// Tunnel joins the client's connection to a service's.
func (v *receiver) Tunnel(t *lasting.Tunnel, protocol string, fromService []byte) error {
	x := (*exchange)(v)
	// It is known before it leaves the server's care, so that Stop cannot miss it.
	x.g.lasting.Add(t, x.ends())
	defer x.g.lasting.Remove(t)
	client, buffered, err := x.answer.control.Hijack()
	if err != nil {
		return err
	}
	_ = client.SetDeadline(time.Time{}) // fails only on a closed connection
	fromClient := lasting.Ahead(buffered.Reader)
	x.givePlace() // a tunnel may be open for days; the client may ask again as soon as it knows
	if err := x.switchTo(client, protocol); err != nil {
		_ = client.Close() // it is broken
		return &upstream.ClientError{Cause: err}
	}
	x.answer.bytes = t.Run(client, fromClient, fromService)
	return nil
}

// switchTo tells the client that from now on its connection speaks another protocol.
func (x *exchange) switchTo(client net.Conn, protocol string) error {
	h := x.answer.Header()
	cleanAnswer(h)
	x.decorate(h)
	h.Set("Upgrade", protocol)
	h.Set("Connection", "Upgrade")
	x.answer.status = http.StatusSwitchingProtocols
	out := []byte("HTTP/1.1 101 Switching Protocols\r\n")
	for name, values := range h {
		for _, value := range values {
			out = hop.AppendField(out, name, value)
		}
	}
	_ = client.SetWriteDeadline(time.Now().Add(lasting.CloseTime)) // fails only on a closed connection
	_, err := client.Write(append(out, "\r\n"...))
	_ = client.SetWriteDeadline(time.Time{}) // as above
	return err
}
