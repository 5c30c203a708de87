package interpreter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/interpreter"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// patience bounds every question but for those that change something.
	patience = 5 * time.Second
	// silence is how long nothing is asked of an interpreter that did not answer in time.
	silence = 20 * time.Second
	// wipeTimeout bounds the removal of everything.
	wipeTimeout = 5 * time.Minute
	// maxNeeds is how many Secrets and ConfigMaps a score may need.
	maxNeeds = 256
	// maxParsed is how many scores are remembered: each pass parses its own again.
	maxParsed = 64
)

// Config describes an interpreter.
type Config struct {
	// Name is that of its registration.
	Name string
	// Types are the score types that it takes.
	Types []string
	// Socket is where systemd listens for it.
	Socket string
	// Owner is the account whose directories and sockets are trusted beside root's.
	Owner int
	// Patience bounds questions; 5 seconds when it is 0.
	Patience time.Duration
}

// Driver implements workload.Driver. Make it with New.
type Driver struct {
	cfg    Config
	client client

	watchers workload.Watchers

	asking sync.Mutex // held while everything is listed
	mu     sync.Mutex // guards what follows; taken after asking
	// listed: the interpreter said once what there is. Of a Deployment that is not among
	// there, nothing is asked: those of other drivers are most.
	listed bool
	there  map[wire.DeploymentRef]bool
	parsed map[string]asked
	// quiet is until when nothing is asked, and why.
	quiet time.Time
	why   error
}

// New returns a driver. It asks nothing yet.
func New(cfg Config) *Driver {
	if cfg.Patience == 0 {
		cfg.Patience = patience
	}
	return &Driver{
		cfg: cfg, client: client{cfg.Socket, cfg.Owner},
		there: map[wire.DeploymentRef]bool{}, parsed: map[string]asked{},
	}
}

// About implements workload.Driver.
func (d *Driver) About() workload.About {
	return workload.About{Name: "interpreter " + d.cfg.Name, Types: d.cfg.Types}
}

// asked is what a score asks for, without and with contents.
type asked struct {
	scoreType string
	data      json.RawMessage
	needs     []string
	objects   map[string]map[string][]byte
	mark      string
}

// Secrets implements workload.Workload.
func (w asked) Secrets() []string { return w.needs }

// WithSecrets implements workload.Workload. What lacks a key only the interpreter knows.
func (w asked) WithSecrets(c workload.Contents) (workload.Workload, error) {
	w.objects = map[string]map[string][]byte{}
	for _, name := range w.needs {
		w.objects[name] = c.Objects[name]
	}
	w.mark = markOf(w.scoreType, w.data, c.Digest)
	return w, nil
}

// markOf stands for a score and its contents. The digest is keyed: it tells nothing of them.
func markOf(scoreType string, data []byte, digest string) string {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(scoreType), data, []byte(digest)} {
		fmt.Fprintf(h, "%d:", len(part))
		h.Write(part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Parse implements workload.Driver.
func (d *Driver) Parse(_ wire.DeploymentRef, scoreType string, data json.RawMessage) (workload.Workload, error) {
	key := markOf(scoreType, data, "")
	d.mu.Lock()
	known, ok := d.parsed[key]
	d.mu.Unlock()
	if ok {
		return known, nil
	}
	a, err := d.ask(context.Background(), d.cfg.Patience, &interpreter.Request{Method: interpreter.MethodParse, Type: scoreType, Data: data})
	if err != nil {
		return nil, err
	}
	if len(a.Needs) > maxNeeds || slices.Contains(a.Needs, "") {
		return nil, d.name(errors.New("it names what no score needs"))
	}
	w := asked{scoreType: scoreType, data: data, needs: a.Needs, mark: key}
	slices.Sort(w.needs)
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.parsed) >= maxParsed {
		clear(d.parsed)
	}
	d.parsed[key] = w
	return w, nil
}

// name adds who said it.
func (d *Driver) name(err error) error {
	return fmt.Errorf("interpreter %s (%s): %w", d.cfg.Name, d.cfg.Socket, err)
}

// unavailable makes an error one of the device.
func unavailable(err error) error {
	return fmt.Errorf("%w: %w", workload.ErrUnavailable, err)
}

// ask asks within a time. After a question that was not answered in time it asks nothing
// for a while, so that each Deployment of the device does not wait for as long.
func (d *Driver) ask(ctx context.Context, within time.Duration, r *interpreter.Request) (interpreter.Answer, error) {
	if err := d.quietly(); err != nil {
		return interpreter.Answer{}, d.name(err)
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	a, err := d.client.ask(ctx, r)
	if err == nil {
		return a, nil
	}
	if _, answered := errors.AsType[*interpreter.Error](err); answered && r.Method != interpreter.MethodList && r.Method != interpreter.MethodObserve {
		return a, err // the interpreter's own words about a Deployment
	}
	err = d.name(err)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) && within <= d.cfg.Patience {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.quiet, d.why = time.Now().Add(silence), errors.New("it does not answer")
	}
	return a, err
}

func (d *Driver) quietly() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Now().Before(d.quiet) {
		return d.why
	}
	return nil
}

// Ready implements workload.Driver.
func (d *Driver) Ready(ctx context.Context) (workload.Look, error) {
	d.asking.Lock()
	defer d.asking.Unlock()
	a, err := d.ask(ctx, d.cfg.Patience, &interpreter.Request{Method: interpreter.MethodList})
	if err != nil {
		return workload.Look{}, unavailable(err)
	}
	var look workload.Look
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listed = true
	if a.Inventory == nil {
		return look, nil
	}
	for _, ref := range a.Deployments {
		if ref.Validate() == nil {
			look.Deployments = append(look.Deployments, ref)
			d.there[ref] = true
		}
	}
	return look, nil
}

// knows reports whether there may be something of a Deployment.
func (d *Driver) knows(ctx context.Context, ref wire.DeploymentRef) (bool, error) {
	d.mu.Lock()
	listed := d.listed
	d.mu.Unlock()
	if !listed {
		if _, err := d.Ready(ctx); err != nil {
			return false, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.there[ref], nil
}

// Observe implements workload.Driver.
func (d *Driver) Observe(ctx context.Context, ref wire.DeploymentRef) (workload.Instance, error) {
	there, err := d.knows(ctx, ref)
	if err != nil || !there {
		return instance{Driver: d, ref: ref}, err
	}
	a, err := d.ask(ctx, d.cfg.Patience, &interpreter.Request{Method: interpreter.MethodObserve, Deployment: ref})
	if err != nil {
		return nil, unavailable(err)
	}
	i := instance{Driver: d, ref: ref}
	if a.Observation != nil {
		i.seen = *a.Observation
	}
	return i, nil
}

// Wipe implements workload.Driver.
func (d *Driver) Wipe(ctx context.Context) error {
	_, err := d.ask(ctx, wipeTimeout, &interpreter.Request{Method: interpreter.MethodWipe})
	return err
}

// Watch implements workload.Driver. It sees what the driver itself does; what happens
// besides, the agent sees at its next look at everything.
func (d *Driver) Watch(ctx context.Context, ready func(), changed func(wire.DeploymentRef)) error {
	return d.watchers.Watch(ctx, ready, changed)
}

// note remembers whether there may be something of a Deployment, and tells who watches.
func (d *Driver) note(ref wire.DeploymentRef, there bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if there {
		d.there[ref] = true
	} else {
		delete(d.there, ref)
	}
	d.watchers.Tell(ref)
}
