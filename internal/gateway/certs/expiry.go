package certs

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"time"
)

const day = 24 * time.Hour

// thresholds are the times before its end at which a certificate is warned about.
var thresholds = []time.Duration{0, day, 3 * day, 7 * day, 14 * day, 30 * day}

// expiry remembers what was said about the end of each certificate.
type expiry struct {
	told map[[sha256.Size]byte]time.Duration // the least threshold told of
}

// check returns the warning that is due for a certificate, "" if none is. A
// threshold counts if it is less than half of the certificate's life: one that
// lives for a day is not warned about from its first hour on.
func (e *expiry) check(leaf *x509.Certificate, now time.Time) string {
	left := leaf.NotAfter.Sub(now)
	for _, t := range thresholds {
		if left > t {
			continue
		}
		if 2*t >= leaf.NotAfter.Sub(leaf.NotBefore) {
			return ""
		}
		id := sha256.Sum256(leaf.Raw)
		if told, ok := e.told[id]; ok && told <= t {
			return ""
		}
		if e.told == nil {
			e.told = map[[sha256.Size]byte]time.Duration{}
		}
		e.told[id] = t
		if t == 0 {
			return "has expired on " + leaf.NotAfter.UTC().Format(time.DateTime) + " UTC"
		}
		return fmt.Sprintf("expires in %s, on %s UTC", days(left), leaf.NotAfter.UTC().Format(time.DateTime))
	}
	return ""
}

// keep forgets all but the given certificates.
func (e *expiry) keep(leafs []*x509.Certificate) {
	told := map[[sha256.Size]byte]time.Duration{}
	for _, leaf := range leafs {
		id := sha256.Sum256(leaf.Raw)
		if t, ok := e.told[id]; ok {
			told[id] = t
		}
	}
	e.told = told
}

func days(d time.Duration) string {
	switch n := int((d + day/2) / day); {
	case n > 1:
		return fmt.Sprintf("%d days", n)
	case n == 1:
		return "1 day"
	default:
		return "less than a day"
	}
}
