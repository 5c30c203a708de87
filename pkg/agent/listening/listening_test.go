package listening_test

import (
	"net"
	"os"
	"testing"

	"fleet.nationtech.io/fleet/pkg/agent/listening"
)

func TestFind(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		tcp, err := net.Listen("tcp", address) //nolint:noctx // on loopback
		if err != nil {
			t.Skip(err)
		}
		defer tcp.Close()
		udp, err := net.ListenPacket("udp", address) //nolint:noctx // on loopback
		if err != nil {
			t.Fatal(err)
		}
		defer udp.Close()
		for _, of := range []struct {
			port int
			udp  bool
		}{{tcp.Addr().(*net.TCPAddr).Port, false}, {udp.LocalAddr().(*net.UDPAddr).Port, true}} {
			s, found, err := listening.Find(uint16(of.port), of.udp)
			if err != nil || !found || s.UID != uint32(os.Geteuid()) {
				t.Errorf("%s: %+v, %t, %v", address, s, found, err)
			}
			if _, found, err := listening.Find(uint16(of.port), !of.udp); found || err != nil {
				t.Errorf("%s: the other protocol's port is taken, too: %v", address, err)
			}
		}
		tcp.Close()
		if s, found, err := listening.Find(uint16(tcp.Addr().(*net.TCPAddr).Port), false); found || err != nil {
			t.Errorf("%s: nobody listens any more: %+v, %v", address, s, err)
		}
	}
}
