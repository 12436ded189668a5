package keeper

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// Protocol is the version of the conversation between node and keeper. A keeper
// outlives the node that started it when another version of the program takes over.
const Protocol = 1

// maxFrame bounds one message; the environment of an instance is the largest
// thing in one, and the kernel takes no more than 2 MiB of it.
const maxFrame = 4 << 20

// errFrame says that a message is longer than maxFrame or empty.
var errFrame = errors.New("message of a size that is not allowed")

// The kinds of messages.
const (
	kindHello    = "hello"    // node: settings; keeper: answer, Process says which
	kindStart    = "start"    // node: Sequence, Start
	kindStarted  = "started"  // keeper: Sequence, ID, Process or Error
	kindStop     = "stop"     // node: ID, Grace
	kindKill     = "kill"     // node: ID
	kindEnded    = "ended"    // keeper: ID, Exit; the main process has ended
	kindGone     = "gone"     // keeper: ID, Output; nothing of the instance is left
	kindShutdown = "shutdown" // node: end what still runs, with Grace, then exit
)

// message is one frame between node and keeper, JSON after a length of four
// bytes in network order.
type message struct {
	Kind     string        `json:"kind"`
	Sequence uint64        `json:"sequence,omitempty"`
	ID       string        `json:"id,omitempty"`
	Grace    time.Duration `json:"grace,omitempty"`
	Hello    *hello        `json:"hello,omitempty"`
	Start    *Command      `json:"start,omitempty"`
	Process  *Identity     `json:"process,omitempty"`
	Exit     *Exit         `json:"exit,omitempty"`
	Output   []string      `json:"output,omitempty"`
	Error    string        `json:"error,omitempty"`
}

// hello is what the keeper needs to know before anything else.
type hello struct {
	Dir      string `json:"dir"` // of the data
	DataID   string `json:"data_id"`
	LogLimit int64  `json:"log_limit"`
	LogFiles int    `json:"log_files"`
}

func writeMessage(w io.Writer, m message) error {
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(body) > maxFrame {
		return fmt.Errorf("encode message: %d bytes: %w", len(body), errFrame)
	}
	frame := make([]byte, 4, 4+len(body))
	binary.BigEndian.PutUint32(frame, uint32(len(body)))
	if _, err := w.Write(append(frame, body...)); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

// frames reads messages and keeps what it has read of the next one, so that reading
// can be interrupted between any two bytes.
type frames struct {
	from io.Reader
	read []byte // not taken yet
}

// next returns the next message. After an error of the reader it may be called again.
func (f *frames) next() (message, error) {
	for {
		m, size, err := cutMessage(f.read)
		if err != nil {
			return message{}, err
		}
		if size > 0 {
			f.read = append(f.read[:0], f.read[size:]...)
			return m, nil
		}
		f.read = slices.Grow(f.read, 4<<10)
		n, err := f.from.Read(f.read[len(f.read):cap(f.read)])
		f.read = f.read[:len(f.read)+n]
		switch {
		case n > 0: // an error comes again
		case errors.Is(err, io.EOF) && len(f.read) > 0:
			return message{}, fmt.Errorf("receive message: %w", io.ErrUnexpectedEOF)
		case errors.Is(err, io.EOF):
			return message{}, io.EOF
		case err != nil:
			return message{}, fmt.Errorf("receive message: %w", err)
		}
	}
}

// cutMessage reads the message at the beginning of b, and how long it is with its
// head; 0: it is not whole yet.
func cutMessage(b []byte) (m message, size int, err error) {
	if len(b) < 4 {
		return message{}, 0, nil
	}
	length := binary.BigEndian.Uint32(b)
	if length == 0 || length > maxFrame {
		return message{}, 0, fmt.Errorf("receive message: %d bytes: %w", length, errFrame)
	}
	size = 4 + int(length)
	if len(b) < size {
		return message{}, 0, nil
	}
	if err := json.Unmarshal(b[4:size], &m); err != nil {
		return message{}, 0, fmt.Errorf("receive message: %w", err)
	}
	return m, size, nil
}

// Command is a process to start.
type Command struct {
	ID     string   `json:"id"`      // of the instance
	Path   string   `json:"path"`    // absolute
	Args   []string `json:"args"`    // with the name of the program first
	Dir    string   `json:"dir"`     // absolute
	Env    []string `json:"env"`     // the whole of it; the marks are added
	LogDir string   `json:"log_dir"` // folder of its log files, absolute
}

// Identity is a process that cannot be mistaken for another one.
type Identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot
}

// Exit is how a process ended.
type Exit struct {
	Code   int    `json:"code"`             // status, when Signal is 0
	Signal int    `json:"signal,omitempty"` // that ended it
	Core   bool   `json:"core,omitempty"`   // it left a core dump
	Ours   bool   `json:"ours,omitempty"`   // it was asked or made to end by us
	Memory bool   `json:"memory,omitempty"` // the kernel killed something for want of memory meanwhile
	Lost   string `json:"lost,omitempty"`   // it ended with the keeper; how that ended
}
