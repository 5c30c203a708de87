package driver_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/containertest"
	"fleet.nationtech.io/fleet/pkg/agent/container/driver"
	"fleet.nationtech.io/fleet/pkg/helper"
	"fleet.nationtech.io/fleet/pkg/helper/storage"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// disk is a storage of which something is damaged until it is repaired or an image of it
// was pulled again.
type disk struct {
	mu      sync.Mutex
	damages []storage.Damage
	err     error
	looks   int
	repairs int
	flushes int
	// slow: it never has all that was written.
	slow bool
}

func (d *disk) Flush(ctx context.Context) error {
	d.mu.Lock()
	d.flushes++
	slow := d.slow
	d.mu.Unlock()
	if slow {
		<-ctx.Done()
	}
	return ctx.Err()
}

func (d *disk) Damages(context.Context) ([]storage.Damage, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.looks++
	return slices.Clone(d.damages), nil
}

func (d *disk) Repair(context.Context) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.repairs++
	if d.err != nil {
		return "", d.err
	}
	d.damages = nil
	return "the database was set aside", nil
}

func (d *disk) set(damages []storage.Damage, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.damages, d.err = damages, err
}

// counts returns how often it was looked at and repaired.
func (d *disk) counts() (looks, repairs int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.looks, d.repairs
}

const damagedImage = "registry.example.com/app:1"

// A damaged image is removed with what was made of it and pulled again: only if it can be
// pulled, and if nothing that goes on is made of it.
func TestADamagedImage(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		runs, away, slow bool
		note             string
		calls            []string
	}{
		"nothing runs": {false, false, false, "", []string{"pull " + damagedImage, "remove shop_web_front", "unpull " + damagedImage, "pull " + damagedImage}},
		"a slow disk":  {false, false, true, "", []string{"pull " + damagedImage, "remove shop_web_front", "unpull " + damagedImage, "pull " + damagedImage}},
		"it runs":      {true, false, false, "what runs of it goes on", nil},
		"no registry":  {false, true, false, "cannot be pulled again: ", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fake, disk := containertest.NewFake(damagedImage), &disk{slow: tt.slow}
				image, err := fake.Image(t.Context(), damagedImage)
				id, createErr := fake.Create(t.Context(), &container.Spec{Ref: wire.DeploymentRef{Namespace: "shop", Name: "web"}, Service: "front", Image: damagedImage, Hash: "h"})
				if err = errors.Join(err, createErr); err == nil && tt.runs {
					err = fake.Start(t.Context(), id)
				}
				if err != nil {
					t.Fatal(err)
				}
				fake.PullFunc = func(context.Context, string) error {
					if tt.away {
						return fmt.Errorf("no route to it: %w", container.ErrImage)
					}
					if _, err := fake.Image(t.Context(), damagedImage); err != nil {
						disk.set(nil, nil)
					}
					return nil
				}
				disk.set([]storage.Damage{{Kind: storage.Image, What: image.ID, Why: "a file is missing"}}, nil)
				d := driver.New(driver.Config{Runtime: fake, Storage: disk, Log: slog.New(slog.DiscardHandler)})
				fake.Calls()
				if _, err := d.Ready(t.Context()); err != nil { // sees since when it runs
					t.Fatal(err)
				}
				time.Sleep(2 * time.Minute)
				var changed []wire.DeploymentRef
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					defer close(done)
					d.Run(ctx, func(ref wire.DeploymentRef) { changed = append(changed, ref) })
				}()
				time.Sleep(30 * time.Second)
				if tt.slow {
					time.Sleep(5 * time.Minute)
				}
				look, err := d.Ready(t.Context())
				if err != nil || (look.Note == "") != (tt.note == "") || !strings.Contains(look.Note, tt.note) {
					t.Errorf("note %q, %v", look.Note, err)
				}
				if diff := cmp.Diff(tt.calls, fake.Calls()); diff != "" {
					t.Error(diff)
				}
				disk.mu.Lock()
				flushes := disk.flushes
				disk.mu.Unlock()
				pulls := len(slices.DeleteFunc(slices.Clone(tt.calls), func(call string) bool { return call != "pull "+damagedImage }))
				if flushes != pulls {
					t.Errorf("%d pulls, and the disk was waited for %d times", pulls, flushes)
				}
				missing, err := d.Missing(ctx, []string{damagedImage})
				if err != nil || (len(missing) == 0) != (tt.note == "") || len(missing) > 0 && !strings.Contains(missing[0], damagedImage+", which is damaged on the disk (a file is missing)") {
					t.Errorf("a restart would lack %q, %v", missing, err)
				}
				cancel()
				<-done
				if (len(changed) > 0) != (tt.calls != nil) {
					t.Errorf("changed: %v", changed)
				}
			})
		})
	}
}

// What keeps the runtime from working is set aside, or named while it must not be.
func TestADamagedDatabase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake, disk := containertest.NewFake(), &disk{}
		fake.SetDown(true)
		disk.set([]storage.Damage{{Kind: storage.Database, What: "db.sql", Why: "it is no database"}}, fmt.Errorf("%w: %w", helper.ErrStorage, storage.ErrRuns))
		d := driver.New(driver.Config{Runtime: fake, Storage: disk, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); d.Run(ctx, func(wire.DeploymentRef) {}) }()
		time.Sleep(time.Second)
		if _, err := d.Ready(ctx); !errors.Is(err, container.ErrUnavailable) || !strings.Contains(err.Error(), "db.sql: it is no database: podman's storage cannot be repaired now: containers run") {
			t.Errorf("got %v", err)
		}
		damages, _ := disk.Damages(ctx)
		disk.set(damages, nil)
		time.Sleep(2 * time.Minute)
		if _, err := d.Ready(ctx); !errors.Is(err, container.ErrUnavailable) || strings.Contains(err.Error(), "db.sql") {
			t.Errorf("after the repair: %v", err)
		}
		looks, repairs := disk.counts()
		if repairs != 2 {
			t.Errorf("%d repairs", repairs)
		}
		// A storage that is whole is not looked at again and again.
		for range 60 {
			_, _ = d.Ready(ctx)
			time.Sleep(time.Minute)
		}
		if now, _ := disk.counts(); now-looks < 3 || now-looks > 7 {
			t.Errorf("%d looks in an hour", now-looks)
		}
		// One that nothing makes suspect is looked at once a day.
		fake.SetDown(false)
		time.Sleep(24 * time.Hour)
		looks, _ = disk.counts()
		time.Sleep(10 * 24 * time.Hour)
		if now, _ := disk.counts(); now-looks < 9 || now-looks > 10 {
			t.Errorf("%d looks in ten quiet days", now-looks)
		}
		cancel()
		<-done
	})
}
