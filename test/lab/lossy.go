//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// maxFrame is the longest frame that a network device hands over in one piece, with the
// header that says how it is to be cut up.
const maxFrame = 1 << 17

// Lossy replaces the member's cable by one that loses a share of the frames, 0 to 1, in
// both directions, until heal is called. Kernels of test machines often lack netem, so a
// frame goes through this process on its way.
func (ns *Namespace) Lossy(ctx context.Context, share float64) (heal func() error, err error) {
	near, far := ns.port+"n", ns.port+"f"
	err = ip(ctx, ns.bridge,
		"link set "+ns.port+" nomaster",
		"link add "+near+" type veth peer name "+far,
		"link set "+near+" up", "link set "+far+" up", "link set "+far+" master br0",
	)
	if err != nil {
		return nil, err
	}
	ends, err := ns.openPackets(ns.port, near)
	if err != nil {
		return nil, err
	}
	var both sync.WaitGroup
	both.Go(func() { forward(ends[0], ends[1], share) })
	both.Go(func() { forward(ends[1], ends[0], share) })
	return func() error {
		err := errors.Join(ends[0].Close(), ends[1].Close())
		both.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		return errors.Join(err, ip(ctx, ns.bridge, "link del "+near, "link set "+ns.port+" master br0"))
	}, nil
}

// forward copies frames until an end is closed, but for those that are lost.
func forward(from, to *os.File, share float64) {
	frame := make([]byte, maxFrame)
	for {
		n, err := from.Read(frame)
		if err != nil {
			return
		}
		if rand.Float64() < share { //nolint:gosec // which ones are lost is no secret
			continue
		}
		if _, err := to.Write(frame[:n]); errors.Is(err, os.ErrClosed) {
			return
		}
	}
}

// openPackets opens sockets for the frames of devices in the bridge's namespace.
func (ns *Namespace) openPackets(devices ...string) (files []*os.File, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked, see DialContext
		if err = unix.Setns(int(ns.bridge.Fd()), unix.CLONE_NEWNET); err != nil {
			return
		}
		for _, device := range devices {
			var file *os.File
			if file, err = openPacket(device); err != nil {
				return
			}
			files = append(files, file)
		}
	}()
	<-done
	if err != nil {
		for _, file := range files {
			file.Close()
		}
		return nil, fmt.Errorf("opening a lossy cable: %w", err)
	}
	return files, nil
}

func openPacket(device string) (*os.File, error) {
	const protocol = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in the order of the network
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), device)
	request, err := unix.NewIfreq(device)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	index := int(request.Uint32())
	err = errors.Join(
		// Frames that the device itself would complete come as they are, and go on so.
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}), //nolint:gosec // the kernel counts them from 1
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: index}),
	)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
