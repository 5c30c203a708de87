package embedserver

import (
	"context"
	"time"

	"fleet.nationtech.io/fleet/pkg/adminapi"
	"fleet.nationtech.io/fleet/pkg/ops"
	"fleet.nationtech.io/fleet/pkg/release"
)

// doorInterval is how often the ConfigMap that says how devices enroll is compared with
// what is true: the command that imports a release needs no server, and tells none.
const doorInterval = time.Minute

// door is how new devices reach this server.
func (s *server) door() (ops.Door, error) {
	g, err := s.gateway(s.host(), s.enrollPort())
	if err != nil {
		return ops.Door{}, err
	}
	d := ops.Door{Root: s.pki.RootHash(), URL: g.URL, Pin: g.Pin}
	if _, err := s.release.Version(); err == nil {
		d.Installer = g.URL + release.PathInstaller
	}
	return d, nil
}

// publishDoor keeps the ConfigMap true, from which operators on other machines learn how
// devices enroll.
func (s *server) publishDoor(ctx context.Context) error {
	ticker := time.NewTicker(doorInterval)
	defer ticker.Stop()
	for {
		s.refreshDoor(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// refreshDoor writes the ConfigMap if it is not true. Devices enroll all the same without.
func (s *server) refreshDoor(ctx context.Context) {
	door, err := s.door()
	if err == nil {
		var wrote bool
		if wrote, err = door.Publish(ctx, s.kube.CoreV1()); wrote {
			s.queues.Wrote("ConfigMap", "enrollment")
		}
	}
	if err != nil && ctx.Err() == nil {
		s.component("enrollment").Warn("operators on other machines cannot learn how devices enroll", "error", err)
	}
}

// Gateway implements adminapi.Server.
func (a admin) Gateway(context.Context, struct{}) (adminapi.GatewayReply, error) {
	if !a.isUp() {
		return adminapi.GatewayReply{}, errStarting
	}
	d, err := a.door()
	return adminapi.GatewayReply{URL: d.URL, Pin: d.Pin, Installer: d.Installer != ""}, err
}
