package embedserver

import (
	"context"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/apiserver"
	"fleet.nationtech.io/fleet/pkg/apiserver/datastore"
	"fleet.nationtech.io/fleet/pkg/client"
)

// devicesPrefix is where Devices are stored.
const devicesPrefix = apiserver.StoragePrefix + "/" + v1alpha1.GroupName + "/devices/"

// storedDevices are the Devices that the store has at the start. The controllers need
// all of them before they can tell any device what to run. They are read while the API
// server starts, and without it: to have it list ten thousand takes ten times as long.
// Everything that changes later comes from the API.
type storedDevices struct {
	done chan struct{}

	list *metav1.List // of the goroutine that reads, until done is closed
	err  error
}

// readDevices begins to read.
func (s *server) readDevices(store *datastore.Datastore) {
	ctx, cancel := context.WithCancel(context.Background())
	s.devices = &storedDevices{done: make(chan struct{})}
	logger := s.component("stored-devices")
	guard := s.panics.Loop("stored-devices", logger)
	go func() {
		defer close(s.devices.done)
		s.devices.err = guard.Try(func() error { return s.devices.read(ctx, store) })
		switch err := s.devices.err; {
		case err == nil:
			logger.Debug("read the Devices of the store", "devices", len(s.devices.list.Items))
		case ctx.Err() == nil:
			logger.Warn("the API is asked for every Device, which takes longer", "error", err)
		}
	}()
	s.parts.OnStop("stored devices", func() error {
		cancel()
		<-s.devices.done
		return nil
	})
}

func (d *storedDevices) read(ctx context.Context, store *datastore.Datastore) error {
	list := &metav1.List{}
	revision, err := store.Rows(ctx, devicesPrefix, func(r datastore.Row) error {
		device, err := client.DecodeStoredDevice(r.Revision, r.Value)
		if err == nil {
			list.Items = append(list.Items, runtime.RawExtension{Object: device})
		}
		return err
	})
	if err != nil {
		return err
	}
	list.ResourceVersion = strconv.FormatInt(revision, 10)
	d.list = list
	return nil
}

// take is a client.FirstList.
func (d *storedDevices) take(ctx context.Context) (*metav1.List, error) {
	select {
	case <-d.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	list := d.list
	d.list = nil
	return list, d.err
}
