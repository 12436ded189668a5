package outside

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"fairlead/internal/wire"
)

// lookAgain is how old what is known of a certificate's files may be.
const lookAgain = time.Second

// shelf holds a certificate that is read again when its files change.
type shelf struct {
	certificate, key string // files
	log              *slog.Logger

	mu     sync.Mutex // guards all below
	pair   *tls.Certificate
	as     [2]mark // of the files that were looked at last
	looked time.Time
}

// mark tells whether a file is another one.
type mark struct {
	changed time.Time
	size    int64
}

func openShelf(certificate, key string, log *slog.Logger) (*shelf, error) {
	s := &shelf{certificate: certificate, key: key, log: log}
	s.as, s.looked = s.marks(), time.Now()
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("read certificate %s: %w", certificate, err)
	}
	s.pair = &pair
	return s, nil
}

// config is TLS with the certificate of the shelf.
func (s *shelf) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.current(), nil },
	}
}

// current returns the certificate. One that cannot be read leaves the one before in
// use; it may be half written.
func (s *shelf) current() *tls.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.looked) < lookAgain {
		return s.pair
	}
	s.looked = time.Now()
	as := s.marks()
	if as == s.as {
		return s.pair
	}
	s.as = as
	pair, err := tls.LoadX509KeyPair(s.certificate, s.key)
	if err != nil {
		s.log.Warn("a certificate for clients from outside cannot be read; the one before is shown",
			slog.String("file", s.certificate), slog.String(wire.KeyError, err.Error()))
		return s.pair
	}
	s.pair = &pair
	s.log.Info("a certificate for clients from outside was read again", slog.String("file", s.certificate))
	return s.pair
}

// marks are those of both files; zero for one that is not there.
func (s *shelf) marks() (as [2]mark) {
	for i, name := range []string{s.certificate, s.key} {
		if info, err := os.Stat(name); err == nil {
			as[i] = mark{info.ModTime(), info.Size()}
		}
	}
	return as
}
