package credential

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"time"
)

const (
	// Bounds of the pause after a renewal that failed.
	minRetry, maxRetry = time.Minute, 6 * time.Hour
	// maxAsk is the longest pause between two questions to a server that refuses
	// the device, or whose certificate is not valid by its clock.
	maxAsk = time.Hour
	// look is how often the Manager looks although nothing happened: the system's
	// clock may have been set, and the time is remembered.
	look = time.Hour
	// spread is the part of a certificate's life over which a fleet renews.
	spread = 10
)

// RenewalTime is when a certificate is renewed: after half of its life, and up
// to a tenth later. How much later follows from the certificate, so that devices
// that enrolled together do not renew together, and that a restart changes nothing.
func RenewalTime(cert *x509.Certificate) time.Time {
	life := cert.NotAfter.Sub(cert.NotBefore)
	sum := sha256.Sum256(cert.Raw)
	share := float64(binary.BigEndian.Uint64(sum[:])) / math.MaxUint64
	return cert.NotBefore.Add(life/2 + time.Duration(share*float64(life/spread)))
}

// pace is when something that failed may be tried again.
type pace struct {
	longest  time.Duration
	failures int
	next     time.Time
}

func (p *pace) ready() bool { return !time.Now().Before(p.next) }

// failed doubles the longest pause, of which any part but the first minute may
// be left out: full jitter, so that a fleet does not come back at one moment.
func (p *pace) failed() {
	const doublings = 9 // a minute doubled 9 times is over 6 h
	limit := min(p.longest, minRetry<<min(p.failures+1, doublings))
	p.failures++
	p.next = time.Now().Add(minRetry + rand.N(limit-minRetry))
}

func (p *pace) reset() { p.failures, p.next = 0, time.Time{} }
