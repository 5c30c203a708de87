package helper

import (
	"context"
	"errors"
	"fmt"

	"fleet.nationtech.io/fleet/pkg/helper/storage"
	"fleet.nationtech.io/fleet/pkg/printable"
)

// ErrStorage: podman's storage was not looked at, or not repaired.
var ErrStorage = errors.New("podman's storage cannot be repaired now")

// errTending: a storage takes longer than anybody waits.
var errTending = errors.New("podman's storage is still being looked at")

// tend looks at podman's storage, repairs it, or brings it to the disk. Any of it may outlast
// its question.
func (s *Server) tend(ctx context.Context, what verb) reply {
	if what == flush {
		return outlasting(ctx, s.flushes, errTending, s.flushed)
	}
	return outlasting(ctx, s.stores, errTending, func() reply { return s.tended(ctx, what) })
}

func (s *Server) tended(ctx context.Context, what verb) reply {
	if what == inspect {
		damages, err := storage.Look(s.Storage.Root)
		if err != nil {
			return answer(failed, err)
		}
		return reply{Outcome: inspected, Damages: damages}
	}
	text, err := s.Storage.Repair(ctx)
	if err != nil {
		return answer(failed, err)
	}
	return reply{Outcome: inspected, Text: text}
}

func (s *Server) flushed() reply {
	if err := storage.Flush(s.Storage.Root); err != nil {
		return answer(failed, err)
	}
	return reply{Outcome: inspected}
}

// Damages says what is damaged in podman's storage. It returns ErrStorage,
// ErrUnavailable or the error of ctx. What it says is the account's word, in one line each.
func (c *Client) Damages(ctx context.Context) ([]storage.Damage, error) {
	got, err := c.tend(ctx, &request{Storage: inspect, Timeout: patience(ctx, maxInspect)})
	if err != nil {
		return nil, err
	}
	damages := got.Damages[:min(len(got.Damages), storage.MaxDamages)]
	for i := range damages {
		d := &damages[i]
		d.What, d.Why = line(d.What), line(d.Why)
	}
	return damages, nil
}

// Repair sets aside what keeps podman from starting, and says what it did; empty for
// nothing. It returns ErrStorage, as while containers run, ErrUnavailable or the error of ctx.
func (c *Client) Repair(ctx context.Context) (done string, err error) {
	got, err := c.tend(ctx, &request{Storage: repair, Timeout: patience(ctx, maxRepair)})
	return line(got.Text), err
}

// Flush returns once what podman wrote so far is on the disk. It returns ErrStorage,
// ErrUnavailable or the error of ctx.
func (c *Client) Flush(ctx context.Context) error {
	_, err := c.tend(ctx, &request{Storage: flush, Timeout: patience(ctx, maxFlush)})
	return err
}

func line(text string) string { return printable.Line(fmt.Sprintf("%.*s", maxText, text)) }

func (c *Client) tend(ctx context.Context, r *request) (reply, error) {
	got, _, err := c.ask(ctx, r, maxTrail, 0)
	switch {
	case err == nil && got.Outcome == inspected:
		return got, nil
	case err == nil && got.Outcome == failed:
		return reply{}, fmt.Errorf("%w: %s", ErrStorage, line(got.Text))
	}
	return reply{}, c.failure(ctx, &got, err)
}
