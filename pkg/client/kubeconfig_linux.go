package client

import (
	"fmt"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"fleet.nationtech.io/fleet/pkg/rights"
)

// maxKubeconfig bounds a kubeconfig in bytes; the server's has 6 KB.
const maxKubeconfig = 1 << 20

// ReadKubeconfig reads and parses such a kubeconfig.
func ReadKubeconfig(path string) (*rest.Config, error) {
	data, err := rights.ReadFile(path, maxKubeconfig)
	if err != nil {
		return nil, err
	}
	config, err := ParseKubeconfig(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return clientcmd.NewDefaultClientConfig(*config, nil).ClientConfig()
}
