// Package handover is the conversation of two nodes when one takes the place of the
// other: messages and open files over a socket that only the two have.
//
// It guarantees that a message and its files arrive together, in order, and that
// no file's mode is changed on the way: a listening socket goes on working in both
// processes. What is said may be secret: nothing of it is in an argument, the
// environment or a file.
//
// It does not know what is said.
package handover

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Protocol is the version of what two nodes say to each other. Nodes of different
// versions do not take each other's place.
const Protocol = 1

// Variable is the environment variable by which a process knows that it is to take
// over, and the descriptor of the conversation.
const Variable = "FAIRLEAD_TAKES_OVER"

const (
	maxMessage = 64 << 20
	maxFiles   = 128
	headBytes  = 8
	sendTime   = 30 * time.Second
)

// Message is one thing said; Body is JSON, and may be empty.
type Message struct {
	Kind string          `json:"kind"`
	Body json.RawMessage `json:"body,omitempty"`
}

// Decode reads the body.
func (m Message) Decode(into any) error {
	if err := json.Unmarshal(m.Body, into); err != nil {
		return fmt.Errorf("read message %s: %w", m.Kind, err)
	}
	return nil
}

// Conn is one end. Sending and receiving are safe for concurrent use, each by one
// at a time.
type Conn struct {
	link    *net.UnixConn
	sending sync.Mutex
	reading sync.Mutex
}

// Spawn prepares a command to have the other end, and returns ours. The command
// must be started and then let go by the returned function.
func Spawn(cmd *exec.Cmd) (c *Conn, started func(), err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open conversation: %w", err)
	}
	near, far := os.NewFile(uintptr(pair[0]), "successor"), os.NewFile(uintptr(pair[1]), "predecessor")
	c, err = open(near)
	if err != nil {
		return nil, nil, errors.Join(err, far.Close())
	}
	const firstExtra = 3
	cmd.Env = append(cmd.Env, Variable+"="+strconv.Itoa(firstExtra+len(cmd.ExtraFiles)))
	cmd.ExtraFiles = append(cmd.ExtraFiles, far)
	return c, func() { _ = far.Close() }, nil // the process has its own
}

// Inherited returns the conversation for which this process was started, nil if it
// was started by something else. It takes the variable out of the environment.
func Inherited() (*Conn, error) {
	text, ok := os.LookupEnv(Variable)
	if !ok {
		return nil, nil //nolint:nilnil // most processes have none
	}
	if err := os.Unsetenv(Variable); err != nil {
		return nil, fmt.Errorf("open conversation: %w", err)
	}
	fd, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("open conversation: %s: %w", Variable, err)
	}
	unix.CloseOnExec(int(fd))
	return open(os.NewFile(uintptr(fd), "predecessor"))
}

func open(f *os.File) (*Conn, error) {
	if f == nil {
		return nil, errors.New("open conversation: there is none")
	}
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("open conversation: %w", err)
	}
	link, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("open conversation: not a Unix socket but %T", conn), conn.Close())
	}
	return &Conn{link: link}, nil
}

// Close ends the conversation. What was sent before is still read.
func (c *Conn) Close() error { return c.link.Close() }

// Send says something; the files stay open here.
func (c *Conn) Send(kind string, body any, files ...*os.File) error {
	text, err := json.Marshal(body)
	if err == nil {
		text, err = json.Marshal(Message{Kind: kind, Body: text})
	}
	if err == nil && (len(text) > maxMessage || len(files) > maxFiles) {
		err = fmt.Errorf("%d bytes and %d files are too much", len(text), len(files))
	}
	if err != nil {
		return fmt.Errorf("send %s: %w", kind, err)
	}
	head := make([]byte, headBytes)
	binary.BigEndian.PutUint32(head, uint32(len(text)))
	binary.BigEndian.PutUint32(head[4:], uint32(len(files)))
	c.sending.Lock()
	defer c.sending.Unlock()
	_ = c.link.SetWriteDeadline(time.Now().Add(sendTime)) // fails only on a closed connection
	err = withDescriptors(files, nil, func(fds []int) error {
		var rights []byte
		if len(fds) > 0 {
			rights = unix.UnixRights(fds...)
		}
		_, _, err := c.link.WriteMsgUnix(head, rights, nil)
		return err
	})
	if err == nil {
		_, err = c.link.Write(text)
	}
	if err != nil {
		return fmt.Errorf("send %s: %w", kind, err)
	}
	return nil
}

// withDescriptors calls do with the descriptors of files, none of which can be
// closed meanwhile, and none of which becomes blocking, as (*os.File).Fd would make it.
func withDescriptors(files []*os.File, fds []int, do func([]int) error) error {
	if len(files) == 0 {
		return do(fds)
	}
	raw, err := files[0].SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = withDescriptors(files[1:], append(fds, int(fd)), do) })
	return errors.Join(err, inner)
}

// Receive waits for the next message; the caller closes its files. It returns
// [io.EOF] when the other side has closed or ended.
func (c *Conn) Receive() (Message, []*os.File, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	m, files, err := c.receive()
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("receive: %w", err)
	}
	return m, files, err
}

func (c *Conn) receive() (_ Message, files []*os.File, err error) {
	defer func() {
		if err != nil {
			for _, f := range files {
				_ = f.Close() // nobody gets it
			}
		}
	}()
	head, rights := make([]byte, headBytes), make([]byte, unix.CmsgSpace(4*maxFiles))
	for got := 0; got < len(head); {
		n, oob, _, _, err := c.link.ReadMsgUnix(head[got:], rights)
		if n == 0 && err == nil {
			err = io.EOF
		}
		more, ferr := filesOf(rights[:oob])
		files = append(files, more...)
		if err := errors.Join(err, ferr); err != nil {
			if got+n > 0 && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return Message{}, files, err
		}
		got += n
	}
	size, count := binary.BigEndian.Uint32(head), binary.BigEndian.Uint32(head[4:])
	if size > maxMessage || int(count) != len(files) {
		return Message{}, files, fmt.Errorf("a message of %d bytes with %d of %d files", size, len(files), count)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c.link, body); err != nil {
		return Message{}, files, errors.Join(io.ErrUnexpectedEOF, err)
	}
	var m Message
	if err := json.Unmarshal(body, &m); err != nil {
		return Message{}, files, err
	}
	return m, files, nil
}

func filesOf(rights []byte) ([]*os.File, error) {
	if len(rights) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "handed over"))
		}
	}
	return files, nil
}

// Abandon makes whoever sends or receives give up now.
func (c *Conn) Abandon() { _ = c.link.SetDeadline(time.Unix(1, 0)) } // fails only on a closed connection
