package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The names of the data folder beside a system's file, and of the socket in it.
const (
	DataDir    = ".fairlead"
	SocketName = "control.sock"
)

const dialTimeout = 5 * time.Second

// throughDir is the address of the socket by its folder's descriptor: a socket's
// address holds 107 bytes at most, a folder's path may be much longer.
func throughDir(dir *os.File, name string) *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)}
}

// socket is a listening Unix socket that only its owner may connect to.
type socket struct {
	*net.UnixListener

	dir  *os.File
	name string
	ino  uint64 // of the file we made: another's is not removed

	closing  sync.Once
	closeErr error
}

// bind listens on path. A socket nobody listens on is replaced.
func bind(path string) (*socket, error) {
	folder, name := filepath.Split(path)
	if folder == "" {
		folder = "."
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("create folder: %w", err)
	}
	dir, err := os.Open(folder)
	if err != nil {
		return nil, fmt.Errorf("open folder: %w", err)
	}
	s := &socket{dir: dir, name: name}
	if err := s.listen(path); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return s, nil
}

func (s *socket) listen(path string) error {
	if err := clearStale(s.dir, s.name, path); err != nil {
		return err
	}
	ln, err := net.ListenUnix("unix", throughDir(s.dir, s.name))
	if err != nil {
		return fmt.Errorf("listen on %s: %w", path, cause(err))
	}
	// The descriptor in its name is ours to keep open, and Close removes it by that.
	ln.SetUnlinkOnClose(false)
	s.UnixListener = ln
	err = unix.Fchmodat(int(s.dir.Fd()), s.name, 0o600, 0)
	if err == nil {
		s.ino, err = inode(s.dir, s.name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("protect %s: %w", path, err), ln.Close())
	}
	return nil
}

// inherit takes over the listening socket of another process, whose file is at path.
func inherit(path string, f *os.File) (*socket, error) {
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over %s: %w", path, err)
	}
	ln, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("take over %s: not a Unix socket but %T", path, l), l.Close())
	}
	ln.SetUnlinkOnClose(false) // Close removes it
	folder, name := filepath.Split(path)
	dir, err := os.Open(folder)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open folder: %w", err), ln.Close())
	}
	s := &socket{UnixListener: ln, dir: dir, name: name}
	if s.ino, err = inode(dir, name); err != nil {
		return nil, errors.Join(fmt.Errorf("take over %s: %w", path, err), ln.Close(), dir.Close())
	}
	return s, nil
}

// leave stops listening for this process only: the file stays.
func (s *socket) leave() error {
	s.closing.Do(func() { s.closeErr = errors.Join(s.UnixListener.Close(), s.dir.Close()) })
	return s.closeErr
}

// Close stops listening and removes the socket's file. Later calls return the
// first result.
func (s *socket) Close() error {
	s.closing.Do(func() { s.closeErr = s.close() })
	return s.closeErr
}

func (s *socket) close() error {
	var errs []error
	if ino, err := inode(s.dir, s.name); err == nil && ino == s.ino {
		errs = append(errs, unix.Unlinkat(int(s.dir.Fd()), s.name, 0))
	}
	errs = append(errs, s.UnixListener.Close(), s.dir.Close())
	return errors.Join(errs...)
}

func inode(dir *os.File, name string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, fmt.Errorf("stat %s: %w", name, err)
	}
	return st.Ino, nil
}

// clearStale removes a socket that no process listens on any more.
func clearStale(dir *os.File, name, path string) error {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stat %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("listen on %s: something else than a socket is there; move it away", path)
	}
	conn, err := net.DialUnix("unix", nil, throughDir(dir, name))
	if err == nil {
		peer, perr := peerOf(conn)
		return errors.Join(
			fmt.Errorf("listen on %s: process %d listens there", path, peer.pid), perr, conn.Close(),
		)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("listen on %s: %w", path, cause(err))
	}
	if err := unix.Unlinkat(int(dir.Fd()), name, 0); err != nil {
		return fmt.Errorf("remove stale %s: %w", path, err)
	}
	return nil
}

// connect connects to the socket in the folder and makes sure that our own user
// listens there.
func connect(folder string) (net.Conn, error) {
	dir, err := os.Open(folder)
	if err != nil {
		return nil, fmt.Errorf("open data folder: %w", err)
	}
	defer dir.Close()
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.Dial("unix", throughDir(dir, SocketName).Name)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", filepath.Join(folder, SocketName), cause(err))
	}
	peer, err := peerOf(conn)
	if err == nil && peer.uid != os.Geteuid() {
		err = fmt.Errorf("connect to %s: it belongs to user %d, not to us", filepath.Join(folder, SocketName), peer.uid)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// absent tells that there is no socket, or nobody listens on it.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOTDIR)
}

// cause drops net's address, which names a descriptor of no use to a reader.
func cause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

// peer is who is at the other end of a Unix socket.
type peer struct{ pid, uid int }

func peerOf(conn net.Conn) (peer, error) {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return peer{}, fmt.Errorf("identify the caller: not a Unix socket but %T", conn)
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return peer{}, fmt.Errorf("identify the caller: %w", err)
	}
	var cred *unix.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, cerr); err != nil {
		return peer{}, fmt.Errorf("identify the caller: %w", err)
	}
	return peer{pid: int(cred.Pid), uid: int(cred.Uid)}, nil
}
