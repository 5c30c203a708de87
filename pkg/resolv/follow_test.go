package resolv_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/resolv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func device(text string, upstream ...string) resolv.Device {
	return resolv.Device{Conf: resolv.Parse(text), Upstream: resolv.Parse(strings.Join(upstream, "\n"))}
}

const (
	header = "# Kept by fleet-agent as the resolv.conf of the device is. Forwarder:"
	pasta  = header + " 169.254.1.1\n"
	own    = header + " 169.254.1.1, of the device\n"
	slirp  = header + " 10.0.2.3\n"
	stub   = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n"
)

func TestFollow(t *testing.T) {
	t.Parallel()
	one, two := device("nameserver 192.168.1.1\n"), device("search lan\nnameserver 192.168.2.1\nnameserver 2001:db8::1\n")
	tests := map[string]struct {
		file        string
		now, before resolv.Device
		want        string // "" for a file that stays
	}{
		"podman would write the same":         {file: "nameserver 169.254.1.1\nnameserver 192.168.1.1\n", now: one},
		"the same without IPv6":               {file: "search lan\nnameserver 169.254.1.1\nnameserver 192.168.2.1\n", now: two},
		"pasta, started without a resolver":   {file: "nameserver 169.254.1.1\nnameserver 8.8.8.8\nnameserver 8.8.4.4\n", now: one, want: pasta + "nameserver 192.168.1.1\n"},
		"pasta, another network":              {file: "nameserver 169.254.1.1\nnameserver 192.168.1.1\n", now: two, want: pasta + "search lan\nnameserver 192.168.2.1\nnameserver 2001:db8::1\n"},
		"another network once more":           {file: pasta + "search lan\nnameserver 192.168.2.1\n", now: one, want: pasta + "nameserver 192.168.1.1\n"},
		"as it is kept":                       {file: pasta + "nameserver 192.168.1.1\n", now: one},
		"pasta, and a resolver of the device": {file: "nameserver 169.254.1.1\nnameserver 8.8.8.8\n", now: device("nameserver 127.0.0.1\n"), want: pasta + "nameserver 169.254.1.1\n"},
		"a stub that was there at the start":  {file: "search lan\nnameserver 169.254.1.1\nnameserver 192.168.1.1\noptions edns0 trust-ad\n", now: device(stub, "nameserver 192.168.1.1")},
		"a stub with another upstream":        {file: "search lan\nnameserver 169.254.1.1\nnameserver 192.168.1.1\n", now: device(stub, "nameserver 192.168.2.1"), before: device(stub, "nameserver 192.168.1.1"), want: own + "search lan\nnameserver 169.254.1.1\nnameserver 192.168.2.1\noptions edns0 trust-ad\n"},
		"a stub that asked nobody at first":   {file: "nameserver 169.254.1.1\nnameserver 8.8.8.8\nnameserver 8.8.4.4\n", now: device("nameserver 127.0.0.53", "nameserver 192.168.2.1"), before: device("nameserver 127.0.0.53"), want: own + "nameserver 169.254.1.1\nnameserver 192.168.2.1\n"},
		"a stub once more":                    {file: own + "nameserver 169.254.1.1\nnameserver 192.168.2.1\n", now: device("nameserver 127.0.0.53", "nameserver 192.168.3.1"), want: own + "nameserver 169.254.1.1\nnameserver 192.168.3.1\n"},
		"back to the stub":                    {file: own + "nameserver 192.168.2.1\n", now: device("nameserver 127.0.0.53", "nameserver 192.168.3.1"), want: own + "nameserver 169.254.1.1\nnameserver 192.168.3.1\n"},
		"a stub that came later":              {file: "nameserver 169.254.1.1\nnameserver 192.168.1.1\n", now: device("nameserver 127.0.0.53", "nameserver 192.168.2.1"), before: one, want: pasta + "nameserver 192.168.2.1\nnameserver 169.254.1.1\n"},
		"from the stub to a server":           {file: pasta + "nameserver 169.254.1.1\nnameserver 192.168.1.1\n", now: one, want: pasta + "nameserver 192.168.1.1\n"},
		"slirp4netns forwards by itself":      {file: "nameserver 10.0.2.3\nnameserver 192.168.1.1\n", now: two, want: slirp + "search lan\nnameserver 10.0.2.3\nnameserver 192.168.2.1\nnameserver 2001:db8::1\n"},
		"slirp4netns, of the device":          {file: slirp + "nameserver 10.0.2.3\nnameserver 192.168.1.1\n", now: device(stub), want: slirp + "search lan\nnameserver 10.0.2.3\noptions edns0 trust-ad\n"},
		"IPv6 only, after another network":    {file: "nameserver 2001:db8::1\n", now: device("nameserver 2001:db8::2\n"), before: device("nameserver 2001:db8::1\n"), want: header + "\nnameserver 2001:db8::2\n"},
		"IPv6 only, once more":                {file: header + "\nnameserver 2001:db8::2\n", now: device("nameserver 2001:db8::3\n"), want: header + "\nnameserver 2001:db8::3\n"},
		"a server of a link":                  {file: "nameserver 169.254.1.1\nnameserver 192.168.1.1\n", now: device("nameserver fe80::1%eth0\nnameserver 192.168.2.1\n"), want: pasta + "nameserver 192.168.2.1\n"},
		"the device lost its network":         {file: "nameserver 169.254.1.1\nnameserver 192.168.1.1\n", now: device("# nobody\n")},
		"of podman run --dns":                 {file: "nameserver 9.9.9.9\n", now: two, before: one},
		"a container's own":                   {file: "# vpn\nnameserver 10.8.0.1\n", now: two, before: one},
		"a file that podman still writes":     {file: "", now: two, before: one},
		"a lie about the forwarder":           {file: header + " 6.6.6.6\nnameserver 6.6.6.6\n", now: one, want: header + "\nnameserver 192.168.1.1\n"},
		"none of the servers is of use":       {file: header + "\nnameserver 192.168.1.1\n", now: device("nameserver 127.0.0.1\n")},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, write := resolv.Follow(resolv.Parse(tt.file), tt.now, tt.before)
			if write != (tt.want != "") {
				t.Fatalf("write is %t: %s", write, got)
			}
			if !write {
				return
			}
			if diff := cmp.Diff(tt.want, got.String()); diff != "" {
				t.Error(diff)
			}
			if again, write := resolv.Follow(resolv.Parse(got.String()), tt.now, tt.now); write {
				t.Errorf("it is written a second time: %s", again)
			}
		})
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	got := resolv.Parse("; no\ndomain a.test\nsearch b.test c.test # two\nnameserver x\nnameserver\nnameserver fe80::1%eth0\r\n  nameserver\t10.0.0.1\noptions ndots:2\noptions rotate\n")
	want := resolv.Conf{Servers: []string{"fe80::1%eth0", "10.0.0.1"}, Search: []string{"b.test", "c.test"}, Options: []string{"ndots:2", "rotate"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// FuzzFollow: whatever a container writes, and the device says, it ends after one round
// in one file that is read as it is written.
func FuzzFollow(f *testing.F) {
	f.Add("nameserver 169.254.1.1\n", "nameserver 10.0.0.1\nsearch a b\n", "")
	f.Add(pasta+"nameserver 1.1.1.1\n", stub, "nameserver ::1\n")
	f.Fuzz(func(t *testing.T, file, now, before string) {
		next, write := resolv.Follow(resolv.Parse(file), device(now), device(before))
		if !write {
			return
		}
		if diff := cmp.Diff(next, resolv.Parse(next.String())); diff != "" {
			t.Fatal(diff)
		}
		if again, write := resolv.Follow(next, device(now), device(before)); write {
			t.Errorf("again %s after %s", again, next)
		}
	})
}
