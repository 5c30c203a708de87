package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"

	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/rest"
)

// errNoWebhooks: a definition could make the server, with its rights and from
// its machine, ask whatever address it names.
var errNoWebhooks = errors.New("this server calls no webhooks")

// noWebhooks is for definitions that were stored before webhooks were refused:
// objects that need no conversion are served, and nobody is called for others.
func noWebhooks(webhook.AuthenticationInfoResolver) webhook.AuthenticationInfoResolver {
	nowhere := &rest.Config{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errNoWebhooks }}
	return &webhook.AuthenticationInfoResolverDelegator{
		ClientConfigForFunc:        func(string) (*rest.Config, error) { return nowhere, nil },
		ClientConfigForServiceFunc: func(string, string, int) (*rest.Config, error) { return nowhere, nil },
	}
}

// noServices is asked where a webhook of a Service is.
type noServices struct{}

func (noServices) ResolveEndpoint(namespace, name string, _ int32) (*url.URL, error) {
	return nil, fmt.Errorf("service %s/%s: %w", namespace, name, errNoWebhooks)
}
