package handover

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary play the process that takes over.
func TestMain(m *testing.M) {
	c, err := Inherited()
	if err != nil {
		panic(err)
	}
	if c == nil {
		os.Exit(m.Run())
	}
	os.Exit(successor(c))
}

// successor serves one connection on the socket that it gets, and says what it read.
func successor(c *Conn) int {
	if os.Getenv(Variable) != "" {
		return 3
	}
	m, files, err := c.Receive()
	if err != nil || m.Kind != "listen" || len(files) != 2 {
		return 4
	}
	l, err := net.FileListener(files[0])
	if err != nil {
		return 5
	}
	conn, err := l.Accept()
	if err != nil {
		return 6
	}
	text, err := io.ReadAll(conn)
	if err != nil || c.Send("read", string(text)) != nil {
		return 7
	}
	if _, _, err := c.Receive(); !errors.Is(err, io.EOF) {
		return 8
	}
	return 0
}

func TestConversation(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Stderr = os.Environ(), os.Stderr
	c, started, err := Spawn(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	started()
	if err := c.Send("listen", strings.Repeat("x", 1<<20), socket, other); err != nil {
		t.Fatal(err)
	}
	var flags int
	raw, _ := l.(*net.TCPListener).SyscallConn()
	if err := raw.Control(func(fd uintptr) { flags, err = unix.FcntlInt(fd, unix.F_GETFL, 0) }); err != nil {
		t.Fatal(err)
	}
	if flags&unix.O_NONBLOCK == 0 {
		t.Error("the listening socket blocks now, in both processes")
	}
	_ = socket.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	m, files, err := c.Receive()
	var text string
	if err != nil || m.Kind != "read" || len(files) != 0 || m.Decode(&text) != nil || text != "hello" {
		t.Errorf("received %s %s %v", m.Kind, m.Body, err)
	}
	_ = c.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func pair(tb testing.TB) (*Conn, *net.UnixConn) {
	tb.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := open(os.NewFile(uintptr(fds[0]), "a"))
	if err != nil {
		tb.Fatal(err)
	}
	far, err := open(os.NewFile(uintptr(fds[1]), "b"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _, _ = c.Close(), far.Close() })
	return c, far.link
}

func TestBadMessages(t *testing.T) {
	tests := map[string]string{
		"torn head":      "\x00\x00\x00",
		"torn body":      "\x00\x00\x00\x08\x00\x00\x00\x00{}",
		"too long":       "\xff\xff\xff\xff\x00\x00\x00\x00",
		"files missing":  "\x00\x00\x00\x02\x00\x00\x00\x01{}",
		"no JSON":        "\x00\x00\x00\x02\x00\x00\x00\x00[]",
		"nothing at all": "",
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			c, far := pair(t)
			_, _ = io.WriteString(far, text)
			_ = far.Close()
			if m, _, err := c.Receive(); err == nil {
				t.Errorf("received %+v", m)
			}
		})
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x0d\x00\x00\x00\x00{\"kind\":\"x\"}\n"))
	f.Add([]byte("\x00\x00\x00\x02\x00\x00\x00\x01{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, far := pair(t)
		go func() {
			_, _ = far.Write(b)
			_ = far.Close()
		}()
		for {
			if _, _, err := c.Receive(); err != nil {
				return
			}
		}
	})
}
