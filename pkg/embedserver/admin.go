package embedserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"fleet.nationtech.io/fleet/pkg/adminapi"
	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/broker"
	"fleet.nationtech.io/fleet/pkg/pki"
)

var errStarting = errors.New("the server is starting: try again in a moment")

// admin does what package adminapi asks for. It implements adminapi.Server.
type admin struct{ *server }

// RotateCA implements adminapi.Server.
func (a admin) RotateCA(ctx context.Context, req adminapi.RotateRequest) (adminapi.RotateReply, error) {
	if err := a.mayIssue(); err != nil {
		return adminapi.RotateReply{}, err
	}
	if err := a.pki.Rotate(req.Root, a.clock.Now()); err != nil {
		return adminapi.RotateReply{}, err
	}
	var reply adminapi.RotateReply
	for _, authority := range []*pki.Authority{a.pki.Root, a.pki.Server, a.pki.Device, a.pki.Operator} {
		reply.Authorities = append(reply.Authorities, authority.Cert().Subject.CommonName)
	}
	a.component("pki").Info("authorities replaced", "authorities", reply.Authorities)
	a.refreshDoor(ctx) // tokens name the newest root
	return reply, a.certificatesChanged()
}

// PruneCA implements adminapi.Server.
func (a admin) PruneCA(ctx context.Context, req adminapi.PruneRequest) (adminapi.PruneReply, error) {
	if err := a.mayIssue(); err != nil {
		return adminapi.PruneReply{}, err
	}
	uses, err := a.uses(ctx)
	if err != nil {
		return adminapi.PruneReply{}, err
	}
	forgotten, kept, err := a.pki.Prune(uses, req.Force, a.clock.Now())
	if err != nil {
		return adminapi.PruneReply{}, err
	}
	reply := adminapi.PruneReply{Forgotten: forgotten}
	for _, k := range kept {
		reply.Kept = append(reply.Kept, adminapi.Kept(k))
	}
	a.component("pki").Info("authorities forgotten", "authorities", forgotten)
	return reply, a.certificatesChanged()
}

// IssueReader implements adminapi.Server.
func (a admin) IssueReader(_ context.Context, req adminapi.ReaderRequest) (adminapi.ReaderReply, error) {
	if err := a.mayIssue(); err != nil {
		return adminapi.ReaderReply{}, err
	}
	ttl := time.Duration(req.TTLSeconds) * time.Second
	if problems := validation.IsDNS1123Subdomain(req.Name); len(problems) > 0 || ttl <= 0 {
		return adminapi.ReaderReply{}, fmt.Errorf("a certificate needs a name of lower-case letters, digits, '-' and '.', and a life of a second at least")
	}
	cert, key, err := a.pki.IssueOperator(req.Name, []string{broker.ReadersGroup}, a.clock.Now(), ttl)
	if err != nil {
		return adminapi.ReaderReply{}, err
	}
	a.component("pki").Info("certificate issued that may read the bus", "user", req.Name, "ttl", ttl)
	_, port, err := net.SplitHostPort(a.broker.Addr().String())
	if err != nil {
		return adminapi.ReaderReply{}, err
	}
	return adminapi.ReaderReply{
		Certificate: string(cert), Key: string(key), Roots: string(a.pki.RootsPEM()),
		Server: "tls://" + net.JoinHostPort(a.host(), port),
	}, nil
}

// uses lists what the API knows to depend on authorities.
func (a admin) uses(ctx context.Context) (pki.Uses, error) {
	uses := pki.Uses{Devices: map[string]time.Time{}, Tokens: map[string]time.Time{}}
	devices, err := a.client.Devices().List(ctx, metav1.ListOptions{})
	if err != nil {
		return uses, fmt.Errorf("listing devices: %w", err)
	}
	for _, d := range devices.Items {
		if d.Spec.Revoked || d.Spec.Enrollment == nil {
			continue
		}
		var issued time.Time
		if expires := d.Status.CertificateExpires; expires != nil {
			issued = expires.Add(-pki.DeviceValidity)
		}
		uses.Devices[d.Name] = issued
	}
	tokens, err := a.client.EnrollmentTokens().List(ctx, metav1.ListOptions{})
	if err != nil {
		return uses, fmt.Errorf("listing enrollment tokens: %w", err)
	}
	for _, t := range tokens.Items {
		if usable(&t, a.clock.Now()) {
			uses.Tokens[t.Name] = t.CreationTimestamp.Time
		}
	}
	return uses, nil
}

func usable(t *v1alpha1.EnrollmentToken, now time.Time) bool {
	return now.Before(t.Expiry()) && t.Status.Uses < t.Spec.MaxUses
}

// Clock implements adminapi.Server.
func (a admin) Clock(context.Context, struct{}) (adminapi.ClockReply, error) {
	reply := adminapi.ClockReply{Time: a.clock.Now()}
	if err := a.clock.Sane(); err != nil {
		reply.Insane = err.Error()
	}
	return reply, nil
}

// AcceptClock implements adminapi.Server.
func (a admin) AcceptClock(ctx context.Context, req struct{}) (adminapi.ClockReply, error) {
	if err := a.clock.Accept(); err != nil {
		return adminapi.ClockReply{}, err
	}
	a.component("clock").Info("an operator accepted the clock", "time", a.clock.Now())
	if err := a.renewServing(); err != nil {
		return adminapi.ClockReply{}, err
	}
	return a.Clock(ctx, req)
}

// mayIssue refuses while the server starts or cannot tell the time.
func (a admin) mayIssue() error {
	if !a.isUp() {
		return errStarting
	}
	return a.clock.Sane()
}

// certificatesChanged brings what was issued up to date with the authorities.
func (s *server) certificatesChanged() error {
	if err := s.renewServing(); err != nil {
		return err
	}
	return s.writeKubeconfig(s.clock.Now())
}

func (s *server) renewServing() error {
	for _, serving := range []*pki.Serving{s.serving, s.apiServing} {
		if _, err := serving.Renew(); err != nil {
			return err
		}
	}
	return nil
}
