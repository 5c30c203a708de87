//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// subnet is the address range of every Network. Each has namespaces of its
// own, so that networks don't meet.
var subnet = netip.MustParsePrefix("10.99.0.0/24")

// subnet6 is that of IPv6; members have the last number of their Addr in it.
var subnet6 = netip.MustParsePrefix("fd99::/64")

// Network joins machines and one namespace for servers on a bridge. All of it
// lives in network namespaces that this process holds by file descriptors:
// nothing is in the host's network, and all is gone when the process ends.
type Network struct {
	// Server is where the programs under test run that machines talk to.
	Server *Namespace

	bridge *os.File

	mu     sync.Mutex // guards last and joined
	last   netip.Addr
	joined int
}

// Namespace is a member of a Network: a network namespace with an address of each IP.
type Namespace struct {
	// Addr is the member's address in the network.
	Addr netip.Addr

	file    *os.File
	bridge  *os.File
	port    string // the bridge's end of the cable
	gateway netip.Addr
}

// NewNetwork makes a network with the member Server at 10.99.0.1. Close it.
func NewNetwork(ctx context.Context) (*Network, error) {
	bridge, err := newNamespace()
	if err != nil {
		return nil, err
	}
	n := &Network{bridge: bridge, last: subnet.Addr()}
	if err := ip(ctx, bridge, "link add br0 type bridge", "link set br0 up"); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	if n.Server, err = n.Join(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// Close lets go of the network; it ends when its last process has.
func (n *Network) Close() error {
	if n.Server != nil {
		n.Server.Close()
	}
	return n.bridge.Close()
}

// Join adds a member with the next free address, in which this process can listen
// and dial. Close it.
func (n *Network) Join(ctx context.Context) (*Namespace, error) {
	file, err := newNamespace()
	if err != nil {
		return nil, err
	}
	ns := n.newMember(file)
	if err := ns.plug(ctx, n.gateway()); err != nil {
		return nil, errors.Join(fmt.Errorf("joining the network as %s: %w", ns.Addr, err), file.Close())
	}
	return ns, nil
}

func (n *Network) newMember(file *os.File) *Namespace {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last = n.last.Next()
	n.joined++
	return &Namespace{Addr: n.last, file: file, bridge: n.bridge, port: "port" + strconv.Itoa(n.joined)}
}

// gateway is the default route of members other than the server. Nothing lies
// beyond it, but rootless containers want an interface that has such a route.
func (n *Network) gateway() netip.Addr {
	if n.Server == nil {
		return netip.Addr{}
	}
	return n.Server.Addr
}

func (ns *Namespace) plug(ctx context.Context, gateway netip.Addr) error {
	err := ip(ctx, ns.bridge,
		"link add "+ns.port+" type veth peer name host0 netns "+ns.path(),
		"link set "+ns.port+" master br0 up",
	)
	if err != nil {
		return err
	}
	ns.gateway = gateway
	if err := ip(ctx, ns.file, "link set lo up", "link set host0 up"); err != nil {
		return err
	}
	return ns.Configure(ctx)
}

// Addr6 is the member's address of IPv6.
func (ns *Namespace) Addr6() netip.Addr { return addr6(ns.Addr) }

func addr6(a netip.Addr) netip.Addr {
	b := subnet6.Addr().As16()
	b[15] = a.As4()[3]
	return netip.AddrFrom16(b)
}

// Configure gives the member its address and route, as a network does that comes up.
func (ns *Namespace) Configure(ctx context.Context) error {
	commands := []string{
		fmt.Sprintf("addr add %s/%d dev host0", ns.Addr, subnet.Bits()),
		fmt.Sprintf("addr add %s/%d dev host0 nodad", ns.Addr6(), subnet6.Bits()),
	}
	if ns.gateway.IsValid() {
		commands = append(commands, "route add default via "+ns.gateway.String(), "route add default via "+addr6(ns.gateway).String())
	}
	return ip(ctx, ns.file, commands...)
}

// Deconfigure takes address and route away.
func (ns *Namespace) Deconfigure(ctx context.Context) error {
	return ip(ctx, ns.file, "addr flush dev host0", "-6 route flush default")
}

// Cut takes the member's cable out: it keeps its address and reaches nobody.
func (ns *Namespace) Cut(ctx context.Context) error {
	return ip(ctx, ns.bridge, "link set "+ns.port+" down")
}

// Restore puts the cable back.
func (ns *Namespace) Restore(ctx context.Context) error {
	return ip(ctx, ns.bridge, "link set "+ns.port+" up")
}

// Block keeps the member from reaching an address.
func (ns *Namespace) Block(ctx context.Context, addr netip.Addr) error {
	return ip(ctx, ns.file, "route add blackhole "+addr.String())
}

// Unblock takes Block back.
func (ns *Namespace) Unblock(ctx context.Context, addr netip.Addr) error {
	return ip(ctx, ns.file, "route del blackhole "+addr.String())
}

// Command builds a command that runs in the namespace; its pid is that of the
// program itself.
func (ns *Namespace) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + ns.path(), "--", name}, args...)...)
}

// DialContext connects from within the namespace to an IP address and port; it
// fits http.Transport and the like.
func (ns *Namespace) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dialing in a namespace: %w", err)
	}
	return inside(ns, func() (net.Conn, error) { return new(net.Dialer).DialContext(ctx, network, address) })
}

// Listen listens within the namespace.
func (ns *Namespace) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	return inside(ns, func() (net.Listener, error) { return new(net.ListenConfig).Listen(ctx, network, address) })
}

// ListenPacket is Listen for datagrams.
func (ns *Namespace) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	return inside(ns, func() (net.PacketConn, error) { return new(net.ListenConfig).ListenPacket(ctx, network, address) })
}

// inside makes a socket, which stays in the namespace.
func inside[T any](ns *Namespace, open func() (T, error)) (T, error) {
	type result struct {
		socket T
		err    error
	}
	done := make(chan result, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, since it must not
		// serve others in this namespace.
		runtime.LockOSThread()
		var r result
		if r.err = unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); r.err != nil {
			r.err = fmt.Errorf("entering a namespace: %w", r.err)
		} else {
			r.socket, r.err = open()
		}
		done <- r
	}()
	r := <-done
	return r.socket, r.err
}

// path names the namespace for other processes while this one lives.
func (ns *Namespace) path() string { return namespacePath(ns.file) }

// Close lets go of the namespace; it ends when its last process has.
func (ns *Namespace) Close() { ns.file.Close() }

func namespacePath(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }

// newNamespace makes a network namespace that lives as long as the file is open.
func newNamespace() (*os.File, error) {
	type result struct {
		file *os.File
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, see DialContext
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{err: err}
			return
		}
		file, err := os.Open("/proc/thread-self/ns/net")
		done <- result{file, err}
	}()
	r := <-done
	if r.err != nil {
		return nil, fmt.Errorf("creating a network namespace: %w", r.err)
	}
	return r.file, nil
}

// ip runs commands of iproute2 in a namespace.
func ip(ctx context.Context, ns *os.File, commands ...string) error {
	for _, command := range commands {
		args := append([]string{"--net=" + namespacePath(ns), "--", "ip"}, strings.Fields(command)...)
		if err := runTool(ctx, "nsenter", args...); err != nil {
			return fmt.Errorf("ip %s: %w", command, err)
		}
	}
	return nil
}
