package main

import (
	"context"
	"crypto/sha256"
	"fmt"

	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/ops"
	"fleet.nationtech.io/fleet/pkg/ops/commands"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/release"
)

const fieldManager = "fleet-server-cli"

// ofServer is how operators call the commands of this program.
var ofServer = ops.Program{
	Device: "fleet-server device", Token: "fleet-server token", Devices: "fleet-server device list",
	Requests: "fleet-server kubectl get enrollmentrequests", Kubectl: "fleet-server kubectl",
}

// host runs the commands of operators with the kubeconfig in $KUBECONFIG or the data
// directory.
func (o *options) host() commands.Host {
	return commands.Host{
		Program:  ofServer,
		Operator: func(context.Context) (*ops.Operator, error) { return o.operator() },
		Door:     o.door,
	}
}

func (o *options) operator() (*ops.Operator, error) {
	config, err := o.restConfig()
	if err != nil {
		return nil, err
	}
	c, err := client.New(config)
	return &ops.Operator{Client: c, Manager: fieldManager, Program: ofServer}, err
}

// door asks the server itself: the ConfigMap follows a release that was just imported
// after a minute only. A server that cannot tell the time lets nobody in.
func (o *options) door(ctx context.Context) (ops.Door, error) {
	if err := o.clockIsRight(ctx); err != nil {
		return ops.Door{}, err
	}
	config, err := o.restConfig()
	if err != nil {
		return ops.Door{}, err
	}
	root, err := pki.DecodeCert(config.CAData)
	if err != nil {
		return ops.Door{}, fmt.Errorf("reading the certificate authority in %s: %w", o.kubeconfig(), err)
	}
	door := ops.Door{Root: sha256.Sum256(root.RawSubjectPublicKeyInfo)}
	c, err := o.admin()
	if err != nil {
		return ops.Door{}, err
	}
	g, err := c.Gateway(ctx, struct{}{})
	if err != nil {
		return door, nil //nolint:nilerr // an older server; the token works all the same
	}
	door.URL, door.Pin = g.URL, g.Pin
	if g.Installer {
		door.Installer = g.URL + release.PathInstaller
	}
	return door, nil
}
