package fleetload

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/test/process"
	"fleet.nationtech.io/fleet/test/wait"
)

const (
	namespace    = "default"
	pollInterval = 20 * time.Millisecond
	listInterval = 2 * time.Second
	pollTimeout  = 10 * time.Minute // thousands of devices on an earlier server
)

// poll waits until check returns nil, and not when it returns errSum.
func poll(ctx context.Context, check func() error) error {
	var sum error
	err := wait.Until(ctx, pollTimeout, pollInterval, func() error {
		err := check()
		if errors.Is(err, errSum) {
			sum, err = err, nil
		}
		return err
	})
	return errors.Join(err, sum)
}

// NewClient returns a client that does not limit itself.
func NewClient(server *process.Server) (*client.Client, error) {
	config, err := clientcmd.BuildConfigFromFlags("", server.Kubeconfig())
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = -1, -1 // a wait of the client's own would be measured as the server's
	return client.New(config)
}

// labelled returns when every device has the label of its group. A list of many
// devices costs the server more than all else, so it asks seldom.
func (c Config) labelled(ctx context.Context, api *client.Client) error {
	return wait.Until(ctx, pollTimeout, listInterval, func() error {
		list, err := api.Devices().List(ctx, metav1.ListOptions{LabelSelector: "group"})
		if err != nil {
			return err
		}
		if n := len(list.Items); n != c.Devices() {
			return fmt.Errorf("%d of %d devices have their label", n, c.Devices())
		}
		return nil
	})
}

// quiet returns when nothing is written any more of the devices that came.
func (c Config) quiet(ctx context.Context, api *client.Client) error {
	last := ""
	return wait.Until(ctx, pollTimeout, listInterval, func() error {
		list, err := api.Devices().List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil {
			return err
		}
		before := last
		if last = list.ResourceVersion; last != before {
			return errors.New("the server is still writing")
		}
		return nil
	})
}

// deploy creates the Deployments, waits for exact aggregates and then looks at
// them for as long as asked.
func (c Config) deploy(ctx context.Context, server *process.Server, api *client.Client, r *Result) error {
	begin := time.Now()
	for group := range c.Groups {
		if _, err := api.Deployments(namespace).Create(ctx, newDeployment(group), metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("creating a Deployment: %w", err)
		}
	}
	if err := poll(ctx, func() error { return c.exact(ctx, api) }); err != nil {
		return fmt.Errorf("waiting for exact aggregates: %w", err)
	}
	r.Exact = time.Since(begin)
	c.printf("%d Deployments applied, all aggregates exact after %s", len(c.Groups), r.Exact.Round(time.Millisecond))
	if err := c.watch(ctx, api); err != nil {
		return err
	}
	var err error
	if r.RSS, err = process.RSS(server.PID()); err != nil {
		return err
	}
	c.printf("aggregates stayed exact for %s; fleet-server uses %d MB", c.Watch, r.RSS>>20)
	return nil
}

// watch looks at the aggregates for as long as asked: they have to stay exact.
func (c Config) watch(ctx context.Context, api *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, c.Watch)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := c.exact(ctx, api); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("an aggregate that was exact changed: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// errSum is no state to wait out: an aggregate has to add up at every moment.
var errSum = errors.New("succeeded, failed and pending do not add up to the matched devices")

// exact returns nil when every Deployment runs on exactly the devices of its
// group.
func (c Config) exact(ctx context.Context, api *client.Client) error {
	for group, size := range c.Groups {
		d, err := api.Deployments(namespace).Get(ctx, groupName(group), metav1.GetOptions{})
		if err != nil {
			return err
		}
		a := d.Status.Aggregate
		if a == nil {
			return errors.New("no aggregate yet")
		}
		if a.Succeeded+a.Failed+a.Pending != a.MatchedDeviceCount {
			return fmt.Errorf("%w: %+v", errSum, *a)
		}
		if a.MatchedDeviceCount != size || a.Succeeded != size {
			return fmt.Errorf("%s: %d matched, %d succeeded, want %d", d.Name, a.MatchedDeviceCount, a.Succeeded, size)
		}
	}
	return nil
}

func newDeployment(group int) *v1alpha1.Deployment {
	return &v1alpha1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: groupName(group)},
		Spec: v1alpha1.DeploymentSpec{
			TargetSelector: metav1.LabelSelector{MatchLabels: map[string]string{"group": groupName(group)}},
			Score: v1alpha1.Score{Type: "PodmanV0", Data: runtime.RawExtension{
				Raw: []byte(`{"services":[{"name":"web","image":"localhost/hello:1"}]}`),
			}},
		},
	}
}
