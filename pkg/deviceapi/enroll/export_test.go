package enroll

import (
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// What the tests see of the unexported parts.
const (
	PublicBurst = publicBurst
	RenewBurst  = renewBurst
)

// SpendStrangers uses up what strangers may do at once.
func (h *Handler) SpendStrangers() { h.strangers.AllowN(time.Now(), strangerBurst) }

func Parse(req wire.EnrollRequest) (device, fingerprint string, err error) {
	token, err := wire.ParseToken(req.Token)
	if err != nil {
		return "", "", refuse(wire.RefusedBadRequest, "%v", err)
	}
	a, err := parse(req, token)
	if err != nil {
		return "", "", err
	}
	return a.device, a.fingerprint, nil
}
