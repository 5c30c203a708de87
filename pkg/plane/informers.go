package plane

import (
	"context"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/controllers/enrollment"
	"fleet.nationtech.io/fleet/pkg/controllers/revisions"
	"fleet.nationtech.io/fleet/pkg/parts"
)

// informers are caches of the API's objects.
type informers struct {
	devices, deployments, revisions, namespaces, secrets, configMaps, tokens, requests cache.SharedIndexInformer
}

func newInformers(fleet *client.Client, kube kubernetes.Interface, devices client.FirstList) (*informers, error) {
	core := client.KubeInformers(kube).Core().V1()
	i := &informers{
		devices: fleet.DeviceInformer(devices), deployments: fleet.DeploymentInformer(),
		namespaces: core.Namespaces().Informer(), secrets: core.Secrets().Informer(), configMaps: core.ConfigMaps().Informer(),
		tokens: fleet.EnrollmentTokenInformer(), requests: fleet.EnrollmentRequestInformer(),
	}
	var err error
	if i.revisions, err = revisions.NewInformer(kube); err != nil {
		return nil, err
	}
	if err := i.deployments.AddIndexers(cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}); err != nil {
		return nil, err
	}
	for _, holders := range []cache.SharedIndexInformer{i.devices, i.requests} {
		if err := holders.AddIndexers(enrollment.Indexers()); err != nil {
			return nil, err
		}
	}
	return i, nil
}

func (i *informers) run(p *parts.Parts) {
	for _, informer := range []cache.SharedIndexInformer{i.devices, i.deployments, i.revisions, i.namespaces, i.secrets, i.configMaps, i.tokens, i.requests} {
		p.Run("informer", func(ctx context.Context) error { informer.RunWithContext(ctx); return nil })
	}
}
