package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"fairlead/internal/system"
)

// maxFile is the most that a file of certificates or keys may have.
const maxFile = 1 << 20

// content is what was last found in one or two files.
type content struct {
	first, second []byte
	sum           [sha256.Size]byte
	err           error
}

// readContent reads one file, or two. An error is content too: it is told once.
func readContent(paths ...string) content {
	var c content
	h := sha256.New()
	for i, path := range paths {
		b, err := readBounded(path)
		if err != nil {
			c.err = err
			b = []byte(err.Error())
		}
		if i == 0 {
			c.first = b
		} else {
			c.second = b
		}
		fmt.Fprintf(h, "%d:", len(b))
		h.Write(b)
	}
	h.Sum(c.sum[:0])
	return c
}

func readBounded(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // opening a pipe would wait for its writer
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read certificate: %s is no file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("read certificate: %s has more than %d bytes", path, maxFile)
	}
	return b, nil
}

// watched is something that is made of files and made anew when they change. What
// was made last stays until something better is there.
type watched[T any] struct {
	paths   []string
	parse   func(content) (T, error)
	seen    [sha256.Size]byte // of the content that was looked at last
	value   T
	problem string // why the files as they are now are not used, "" if they are
}

func (w *watched[T]) read() content { return readContent(w.paths...) }

// take uses what was read and says whether the value is another one now.
func (w *watched[T]) take(c content) (changed bool, err error) {
	if c.sum == w.seen {
		return false, nil
	}
	w.seen = c.sum
	if err = c.err; err == nil {
		var value T
		if value, err = w.parse(c); err == nil {
			w.value, w.problem = value, ""
			return true, nil
		}
		err = fmt.Errorf("%s: %w", w.paths[0], err)
	}
	w.problem = err.Error()
	return false, err
}

type (
	pair  = watched[*tls.Certificate]
	trust = watched[*x509.CertPool]
)

func newPair(c system.Certificate) *pair {
	return &pair{paths: []string{c.Certificate, c.Key}, parse: func(c content) (*tls.Certificate, error) {
		return parsePair(c.first, c.second)
	}}
}

func newPool(path string) *trust {
	return &trust{paths: []string{path}, parse: func(c content) (*x509.CertPool, error) {
		return parsePool(c.first)
	}}
}

// parsePair reads a certificate, its leaf first, and the key that belongs to it.
func parsePair(certificate, key []byte) (*tls.Certificate, error) {
	cert, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	if cert.Leaf == nil {
		if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return nil, err
		}
	}
	if names, addrs := namesOf(cert.Leaf); len(names)+len(addrs) == 0 {
		return nil, errors.New("the certificate is for no name")
	}
	return &cert, nil
}

// parsePool reads certificates of authorities.
func parsePool(pem []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(bytes.TrimSpace(pem)) {
		return nil, errors.New("holds no certificate in PEM")
	}
	return pool, nil
}
