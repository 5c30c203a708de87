package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"fleet.nationtech.io/fleet/pkg/logging/capture"
	"fleet.nationtech.io/fleet/pkg/natskeys"
	"fleet.nationtech.io/fleet/pkg/operator"
	"fleet.nationtech.io/fleet/pkg/version"
)

// operatorOptions are those of an operator alone; it shares some of the server's.
type operatorOptions struct {
	kubeconfig, namespace, identity string
	nats                            []string
	natsKeys                        string
	replicas                        int
	healthListen                    string
}

// namespaceFile is where a pod finds the name of its namespace.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

func newOperator(o *options) *cobra.Command {
	p := &operatorOptions{}
	cmd := &cobra.Command{
		Use:   "operator --nats URL --nats-keys DIRECTORY --tls-san HOST --advertise URL",
		Short: "Run the control plane beside an existing Kubernetes and NATS",
		Long: "Run the control plane beside an existing Kubernetes, whose API has the definitions that fleet-server gen-crd\n" +
			"prints, and an existing NATS, whose configuration has what fleet-server nats-accounts prints. Nothing is kept\n" +
			"in files: authorities, keys that are refused and the certificate of NATS (Secret fleet-nats-tls) are in the\n" +
			"operator's own namespace. Of several processes, one leads, and another takes over within 15 s.\n" +
			"Devices enroll at --enroll-listen by a name that --tls-san gives, and connect to NATS at --advertise.",
		Example: "  fleet-server operator --nats tls://fleet-nats:4222 --nats-keys /etc/fleet/nats-keys \\\n" +
			"    --tls-san fleet.example.com --advertise tls://nats.example.com:4222",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.run(cmd, o) },
	}
	f := cmd.Flags()
	f.StringVar(&p.kubeconfig, "kubeconfig", "", "kubeconfig of the existing Kubernetes; unset, that of $KUBECONFIG, or of the pod")
	f.StringVar(&p.namespace, "namespace", "", "namespace of what the operator keeps for itself (default: that of the pod)")
	f.StringVar(&p.identity, "identity", "", "name of this process among its replicas (default: the name of the host)")
	f.StringSliceVar(&p.nats, "nats", nil, "`URL` of the existing NATS: tls://HOST:PORT; may be repeated, for several servers")
	f.StringVar(&p.natsKeys, "nats-keys", "", "`DIRECTORY` with the seeds that fleet-server nats-accounts --create made")
	f.IntVar(&p.replicas, "replicas", 1, "how many servers of NATS hold each bucket: 3 for a cluster")
	f.StringVar(&p.healthListen, "health-listen", ":8080", "host:port of /livez, /readyz and /metrics")
	for _, name := range []string{"nats", "nats-keys"} {
		_ = cmd.MarkFlagRequired(name) // fails for unknown flags only
	}
	return cmd
}

// check returns the first mistake in the options.
func (p *operatorOptions) check(o *options) error {
	for _, server := range slices.Concat(p.nats, o.Advertise) {
		if u, err := url.Parse(server); err != nil || u.Scheme != "tls" || u.Port() == "" {
			return fmt.Errorf("%.80q is not the URL of a NATS server: it must have the form tls://HOST:PORT", server)
		}
	}
	switch {
	case len(o.Advertise) == 0:
		return errors.New("--advertise: say how devices reach NATS: tls://HOST:PORT")
	case len(o.TLSSANs) == 0:
		return errors.New("--tls-san: say by which name devices reach this operator to enroll")
	case p.replicas < 1 || p.replicas > 5:
		return fmt.Errorf("--replicas %d: it must be within 1 and 5", p.replicas)
	}
	return nil
}

func (p *operatorOptions) run(cmd *cobra.Command, o *options) error {
	if err := p.check(o); err != nil {
		return err
	}
	log, err := o.logger(cmd)
	if err != nil {
		return err
	}
	capture.Install(log)
	config := operator.Config{
		Namespace: p.namespace, Identity: p.identity, EnrollListen: o.EnrollListen, Hosts: o.TLSSANs, Servers: o.Advertise, ScoreTypes: o.ScoreTypes, Logger: log,
	}
	if config.API, err = p.api(); err != nil {
		return err
	}
	if config.Namespace == "" {
		data, err := os.ReadFile(namespaceFile)
		if err != nil {
			return errors.New("--namespace: this is no pod, so say in which namespace the operator keeps what is its own")
		}
		config.Namespace = string(data)
	}
	if config.Identity == "" {
		if config.Identity, err = os.Hostname(); err != nil {
			return fmt.Errorf("--identity: %w", err)
		}
	}
	if config.Bus.Keys, err = natskeys.ReadPairs(p.natsKeys); err != nil {
		return fmt.Errorf("--nats-keys: %w", err)
	}
	config.Bus.Servers, config.Bus.Replicas = p.nats, p.replicas
	log.Info("starting", "version", version.Version, "namespace", config.Namespace, "identity", config.Identity)
	operator, err := operator.New(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	health := make(chan error, 1)
	go func() { health <- p.serveHealth(ctx, operator) }()
	done := make(chan error, 1)
	go func() { done <- operator.Run(ctx) }()
	select {
	case err = <-done:
		cancel()
		return errors.Join(err, <-health)
	case err = <-health:
		cancel()
		return errors.Join(err, <-done)
	}
}

func (p *operatorOptions) api() (*rest.Config, error) {
	path := p.kubeconfig
	if path == "" {
		path = os.Getenv("KUBECONFIG")
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig: %w: it is no pod, so name the kubeconfig of the existing Kubernetes", err)
	}
	config.QPS, config.Burst, config.UserAgent = -1, -1, "fleet-operator/"+version.Version
	return config, nil
}

// healthTimeout bounds a request for the health of the process.
const healthTimeout = 10 * time.Second

// serveHealth serves what a kubelet and Prometheus ask for, until ctx ends. A process that does
// not lead is ready to; one that leads is ready when it lets devices in.
func (p *operatorOptions) serveHealth(ctx context.Context, o *operator.Operator) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := o.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.Metrics(), promhttp.HandlerOpts{}))
	l, err := net.Listen("tcp", p.healthListen)
	if err != nil {
		return fmt.Errorf("listening for health: %w: choose another with --health-listen", err)
	}
	web := &http.Server{Handler: mux, ReadHeaderTimeout: healthTimeout, ReadTimeout: healthTimeout, WriteTimeout: healthTimeout, IdleTimeout: healthTimeout}
	stop := context.AfterFunc(ctx, func() { _ = web.Close() })
	defer stop()
	if err := web.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
