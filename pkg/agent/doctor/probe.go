package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/clock"
	"fleet.nationtech.io/fleet/pkg/agent/config"
	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/bind"
	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/credential"
	"fleet.nationtech.io/fleet/pkg/agent/facts"
	"fleet.nationtech.io/fleet/pkg/agent/keystore"
	"fleet.nationtech.io/fleet/pkg/agent/proxy"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/rights"
)

const (
	// askTimeout bounds one question to podman or a server.
	askTimeout = 10 * time.Second
	// mapTimeout is longer: the first podman of an account prepares its storage.
	mapTimeout = 30 * time.Second
	// diskTimeout bounds a question to the kernel about a file system.
	diskTimeout = 5 * time.Second
)

// Podman answers over its socket; package podman implements it.
type Podman interface {
	Info(ctx context.Context) (container.Info, error)
}

// Probe reads what Local does, and asks podman, the agent and the server. All
// fields are mandatory but for ConfigErr, Proxy and those that say so.
type Probe struct {
	Local
	Config     config.Config
	ConfigPath string
	// ConfigErr says what is wrong with the configuration.
	ConfigErr error
	Podman    Podman
	// Helper asks whether the helper of the workloads' account answers, Binds says which
	// directories containers may mount.
	Helper func(context.Context) error
	Binds  bind.Policy
	Keys   keystore.Storage
	// NamesLost asks the helper about podman's server of names, Interpreters the programs that
	// run workloads; nil for nobody.
	NamesLost    func(context.Context) (bool, error)
	Interpreters func(context.Context) []Interpreter
	// Groups are the numbers of the groups that processes of the account have; nil for nobody
	// who knows.
	Groups func() ([]uint32, error)
	// Proxy is the way to the servers; nil for the direct one.
	Proxy *proxy.Proxy
}

// Read reads the facts. It changes nothing but for what podman makes when an
// account uses it for the first time.
func (p Probe) Read(ctx context.Context) Facts {
	f := p.Local.Read()
	f.Config, f.Privileges = p.ConfigErr, p.Config.Privileges()
	f.Podman = p.askPodman(ctx)
	p.ReadSettings(ctx, &f)
	p.askSubIDSource(ctx, &f)
	f.Mapped = p.askMapped(ctx, f)
	f.Disks = p.disks(f)
	p.askOthers(ctx, &f)
	f.Agent = p.askAgent(ctx)
	p.askServer(ctx, &f)
	f.Proxy = p.askProxy(ctx, slices.Concat(f.Enrollment, f.Connection))
	f.Now = time.Now()
	return f
}

func (p Probe) askPodman(ctx context.Context) Fact[container.Info] {
	ctx, cancel := context.WithTimeout(ctx, mapTimeout)
	defer cancel()
	info, err := p.Podman.Info(ctx)
	return Fact[container.Info]{Value: info, Err: err}
}

func (p Probe) askAgent(ctx context.Context) Fact[control.Status] {
	s, err := control.ReadStatus(ctx, p.Config.StateDir)
	return Fact[control.Status]{Value: s, Err: err}
}

// askOthers asks programs that stand beside the agent.
func (p Probe) askOthers(ctx context.Context, f *Facts) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if p.NamesLost != nil {
		f.NamesLost.Value, f.NamesLost.Err = p.NamesLost(ctx)
	}
	if p.Interpreters != nil {
		f.Interpreters = known(p.Interpreters(ctx))
	}
	f.AskGroups(p.Groups)
}

// AskGroups asks which groups the processes of the account have, if it is in any; ask is nil
// for nobody who knows.
func (f *Facts) AskGroups(ask func() ([]uint32, error)) {
	if ask != nil && len(f.Memberships.Value) > 0 {
		f.Groups.Value, f.Groups.Err = ask()
	}
}

// askSubIDSource asks the directory service that allocates the ids, if there is one.
func (p Probe) askSubIDSource(ctx context.Context, f *Facts) {
	if source := p.subIDSource(); source == "" || source == "files" || f.SubUIDs.Err == nil {
		return
	}
	f.SubUIDs, f.SubGIDs = foreignIDs(ctx, f.Workload), foreignIDs(ctx, f.Workload, "-g")
}

// foreignIDs reads lines such as "0: fleet-workload 100000 65536".
func foreignIDs(ctx context.Context, name string, options ...string) Fact[int] {
	out, err := capture(ctx, nil, append(append([]string{"getsubids"}, options...), name)...)
	if err != nil {
		return unknownFact[int](err)
	}
	longest := 0
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if n, err := strconv.Atoi(fields[max(len(fields)-1, 0)]); len(fields) == 4 && err == nil {
			longest = max(longest, n)
		}
	}
	return known(longest)
}

// askMapped lets podman show the ids that its containers get. It runs in the
// account's own systemd, so that what podman leaves behind is not of the
// session of whoever asks.
func (p Probe) askMapped(ctx context.Context, f Facts) Fact[int] {
	account, ok := f.Accounts[f.Workload]
	switch {
	case !ok || f.Manager.Err != nil || !f.Manager.Value:
		return unknownFact[int](errors.New("systemd does not run for the account"))
	case os.Geteuid() != 0 && os.Geteuid() != account.UID:
		return unknownFact[int](ErrNeedsRoot)
	}
	ctx, cancel := context.WithTimeout(ctx, mapTimeout)
	defer cancel()
	const show = "cat /proc/self/uid_map; echo; cat /proc/self/gid_map"
	out, err := capture(ctx, &account, "systemd-run", "--user", "--quiet", "--pipe", "--wait", "--collect", "--property=KillMode=process",
		"--", "podman", "unshare", "sh", "-c", show)
	if err != nil {
		return unknownFact[int](err)
	}
	uids, gids, _ := strings.Cut(out, "\n\n")
	return known(min(mappedIDs(uids), mappedIDs(gids)))
}

// mappedIDs adds up the third column of a map, without the account itself.
func mappedIDs(text string) int {
	total := 0
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) == 3 {
			n, _ := strconv.Atoi(fields[2]) // the kernel wrote it
			total += n
		}
	}
	return max(total-1, 0)
}

// disks looks at the state directory and at podman's storage; one file system
// is shown once.
func (p Probe) disks(f Facts) []Disk {
	list := []Disk{{Name: "state of the agent", Path: p.Config.StateDir}}
	if store := cmp.Or(f.Podman.Value.StoreRoot, f.Accounts[f.Workload].Home); store != "" {
		list = append(list, Disk{Name: "images and containers", Path: store})
	}
	var seen []Disk
	for _, d := range list {
		fsys, err := within(diskTimeout, func() (facts.FileSystem, error) { return facts.Disk(p.existing(d.Path)) })
		d.FileSystem = fsys
		same := len(seen) > 0 && seen[0].FileSystem == fsys
		if err == nil && !same {
			seen = append(seen, d)
		}
	}
	return seen
}

// within gives up a question that the kernel does not answer, as about a file
// system of a program that hangs: podman names the path, so it can be any.
func within[T any](limit time.Duration, ask func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		value, err := ask()
		answered <- answer{value, err}
	}()
	select {
	case a := <-answered:
		return a.value, a.err
	case <-time.After(limit):
		var none T
		return none, errors.New("it did not answer in time")
	}
}

// existing is the path, or the nearest directory above it that exists.
func (p Probe) existing(path string) string {
	path = p.path(path)
	for path != "/" {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		path = filepath.Dir(path)
	}
	return path
}

// askServer reads the identity and tries to reach the servers that it names.
func (p Probe) askServer(ctx context.Context, f *Facts) {
	identity, err := p.identity(f)
	if err == nil && !identity.Enrolled() {
		err = store.ErrNoIdentity
	}
	if errors.Is(err, fs.ErrPermission) {
		err = ErrNeedsRoot
	}
	if err != nil {
		f.Identity.Err, f.Ahead.Err = err, errors.New("the device's identity is not known")
		f.Connection = p.connect(ctx, p.Config.Server.URLs, nil)
		return
	}
	cert, roots, err := p.load(identity)
	f.Identity = known(Identity{Device: identity.Device, Problem: err})
	servers := p.Config.Server.URLs
	if len(servers) == 0 {
		servers = identity.Servers
	}
	if err != nil {
		f.Ahead.Err = errors.New("the device's identity cannot be used")
		f.Connection = p.connect(ctx, servers, nil)
		return
	}
	id := &f.Identity.Value
	if hashes := rootHashes(identity.Root); len(hashes) > 0 {
		id.RootHash = hashes[0] // the present root comes first
	}
	id.NotBefore, id.NotAfter, id.Renewal = cert.Leaf.NotBefore, cert.Leaf.NotAfter, credential.RenewalTime(cert.Leaf)
	if id.NotBefore.After(f.GoodTime) {
		f.GoodTime = id.NotBefore
	}
	f.Ahead = p.ahead(ctx, identity.Server, roots, cert)
	f.Enrollment = []Attempt{{Address: identity.Server, Err: f.Ahead.Err}}
	f.Connection = p.connect(ctx, servers, &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{*cert},
		Time: func() time.Time { return time.Now().Add(-f.Ahead.Value) },
	})
}

// identity reads what the agent's account wrote, with that account's rights; what
// it may not read is root's own.
func (p Probe) identity(f *Facts) (identity *store.Identity, err error) {
	state := store.View(p.Config.StateDir, slog.New(slog.DiscardHandler))
	read := func() error {
		identity, err = state.Identity()
		f.GoodTime = state.GoodTime()
		return err
	}
	if owner, other := rights.Of(p.Config.StateDir); other {
		if err := owner.As(read); !errors.Is(err, fs.ErrPermission) {
			return identity, err
		}
	}
	return identity, read()
}

func (p Probe) load(identity *store.Identity) (*tls.Certificate, *x509.CertPool, error) {
	key, err := p.Keys.Load(identity.Key)
	if err != nil {
		return nil, nil, err
	}
	return identity.TLS(key)
}

// ahead learns the server's signed time, which also proves that the enrollment
// address is the server's.
func (p Probe) ahead(ctx context.Context, server string, roots *x509.CertPool, own *tls.Certificate) Fact[time.Duration] {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	u, err := url.Parse(server)
	if err != nil {
		return unknownFact[time.Duration](err)
	}
	c := clock.New(clock.Config{})
	if err := c.Learn(ctx, clock.Source{Server: u, Roots: roots, Certificate: own, Dial: p.Proxy.Dialer(new(net.Dialer)).DialContext}); err != nil {
		return unknownFact[time.Duration](err)
	}
	return known(time.Now().Round(0).Sub(c.Now()))
}

// connect tries each of the NATS URLs: whether the host answers, and with a
// configuration for TLS whether the server takes the device's certificate.
func (p Probe) connect(ctx context.Context, servers []string, config *tls.Config) []Attempt {
	var list []Attempt
	for _, server := range servers {
		list = append(list, Attempt{Address: server, Err: p.dial(ctx, server, config)})
	}
	return list
}

func (p Probe) dial(ctx context.Context, server string, config *tls.Config) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	u, err := url.Parse(server)
	if err != nil {
		return err
	}
	address := hostPort(u)
	raw, err := p.Proxy.Dialer(new(net.Dialer)).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer raw.Close()
	if config == nil {
		return nil
	}
	config = config.Clone()
	config.ServerName = u.Hostname()
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	// With TLS 1.3 the client learns from the first byte whether the server took
	// its certificate. NATS speaks first.
	deadline, _ := ctx.Deadline()
	if err := conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}
