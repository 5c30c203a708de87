package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/util/completion"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// runOptions are what kubectl fleet run is asked for.
type runOptions struct {
	connection
	target

	image, restart string
	ports, env     []string
	command        bool
	labels         string

	print          *genericclioptions.PrintFlags
	manager        string
	forceConflicts bool
}

func newRun(c connection) *cobra.Command {
	o := runOptions{connection: c, print: genericclioptions.NewPrintFlags("")}
	cmd := &cobra.Command{
		Use:   "run NAME --image=image [--port=port] [--env=\"key=value\"] [--selector=selector] [--target-device=ID] [--dry-run=server|client] [-- ARGS...]",
		Short: "Run a container on devices",
		Long: "Run a container on devices: create a Deployment with one service, or change the one of that name.\n" +
			"The command applies its fields on the server. It changes no field that another program set, unless\n" +
			"--force-conflicts is given. With --dry-run=client -o yaml it prints the Deployment, as a beginning for a file.",
		Example: "  kubectl fleet run web --image docker.io/library/nginx:1.29 --port 8080:80 --selector site=plant-1\n" +
			"  kubectl fleet run logger --image registry.example.com/logger:2 --env LEVEL=info --target-device press-7 -- --verbose\n" +
			"  kubectl fleet run web --image docker.io/library/nginx:1.29 --all --dry-run=client -o yaml > web.yaml",
		DisableFlagsInUseLine: true,
		Args:                  runArgs,
		ValidArgsFunction:     cobra.NoFileCompletions,
		RunE:                  o.run,
	}
	f := cmd.Flags()
	f.StringVar(&o.image, "image", "", "image of the container, with its registry")
	f.StringArrayVar(&o.ports, "port", nil, "[[IP:]PORT:]CONTAINERPORT[/udp] to publish on each device; may be repeated")
	f.StringArrayVar(&o.env, "env", nil, "variable NAME=VALUE of the container; may be repeated")
	f.StringArrayVarP(&o.selectors, "selector", "l", nil, "label selector that devices have to match, such as site=plant-1 or 'site in (a,b)'; may be repeated, then they have to match all")
	f.StringArrayVar(&o.devices, "target-device", nil, "`ID` of a device, which is --selector device-id=ID; may be repeated, for any of them")
	f.BoolVar(&o.all, "all", false, "run it on every device, also on those that enroll later")
	f.StringVar(&o.restart, "restart", "", "when a container that ended is started again: Always (the default), OnFailure or Never")
	f.BoolVar(&o.command, "command", false, "take what follows -- as the command, in place of the image's entrypoint, and not as its arguments")
	f.StringVar(&o.labels, "labels", "", "labels of the Deployment itself, such as team=a,tier=b")
	f.BoolVar(&o.forceConflicts, "force-conflicts", false, "take over fields that another program set")
	util.AddFieldManagerFlagVar(cmd, &o.manager, manager)
	util.AddDryRunFlag(cmd)
	o.print.AddFlags(cmd)
	_ = cmd.MarkFlagRequired("image") // these fail for unknown flags only
	_ = cmd.RegisterFlagCompletionFunc("restart", cobra.FixedCompletions([]string{string(score.RestartAlways), string(score.RestartOnFailure), string(score.RestartNever)}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("target-device", completion.ResourceNameCompletionFunc(c, devices))
	return cmd
}

// runArgs takes a name, and whatever follows --.
func runArgs(cmd *cobra.Command, args []string) error {
	names := cmd.ArgsLenAtDash()
	if names < 0 {
		names = len(args)
	}
	if names != 1 {
		return fmt.Errorf("accepts 1 NAME, received %d", names)
	}
	return nil
}

func (o *runOptions) run(cmd *cobra.Command, args []string) error {
	dryRun, err := util.GetDryRunStrategy(cmd)
	if err != nil {
		return err
	}
	namespace, explicit, err := o.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return err
	}
	d, err := o.deployment(args[0], args[1:])
	if err != nil {
		return err
	}
	if explicit {
		d.SetNamespace(namespace)
	}
	if dryRun == util.DryRunClient {
		return o.show(cmd, d, "created", dryRun)
	}
	return o.apply(cmd, d, namespace, dryRun)
}

// deployment is what is asked for, with no field that nobody asked for.
func (o *runOptions) deployment(name string, args []string) (*unstructured.Unstructured, error) {
	if err := (wire.DeploymentRef{Namespace: metav1.NamespaceDefault, Name: name}).Validate(); err != nil {
		return nil, err
	}
	selector, err := o.selector()
	if err != nil {
		return nil, err
	}
	own, err := labels.ConvertSelectorToLabelsMap(o.labels, field.WithPath(field.NewPath("labels")))
	if err != nil {
		return nil, fmt.Errorf("--%w", err)
	}
	service, err := o.service(name, args)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(score.PodmanV0{Services: []score.Service{service}})
	if err != nil {
		return nil, err
	}
	if _, err := score.Validate(score.TypePodmanV0, data); err != nil {
		return nil, fmt.Errorf("spec.score.%w", err)
	}
	u, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&v1alpha1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: own},
		Spec:       v1alpha1.DeploymentSpec{TargetSelector: selector, Score: v1alpha1.Score{Type: score.TypePodmanV0, Data: runtime.RawExtension{Raw: data}}},
	})
	if err != nil {
		return nil, err
	}
	d := &unstructured.Unstructured{Object: u}
	d.SetGroupVersionKind(kind)
	unstructured.RemoveNestedField(u, "status")
	unstructured.RemoveNestedField(u, "metadata", "creationTimestamp")
	return d, nil
}

var kind = v1alpha1.GroupVersion.WithKind("Deployment")

func (o *runOptions) service(name string, args []string) (score.Service, error) {
	s := score.Service{Name: name, Image: o.image, Restart: score.RestartPolicy(o.restart)}
	if o.command {
		s.Command = args
	} else {
		s.Args = args
	}
	for _, text := range o.ports {
		p, err := parsePort(text)
		if err != nil {
			return s, fmt.Errorf("--port %.80q: %w", text, err)
		}
		s.Ports = append(s.Ports, p)
	}
	for _, text := range o.env {
		name, value, found := strings.Cut(text, "=")
		if !found {
			return s, fmt.Errorf("--env %.80q: it must have the form NAME=VALUE", text)
		}
		s.Env = append(s.Env, score.EnvVar{Name: name, Value: value})
	}
	return s, nil
}

var errPort = errors.New("it must have the form [[IP:]PORT:]CONTAINERPORT[/tcp|/udp], with ports from 1 to 65535")

// parsePort parses a port in the form of podman run --publish, but that a port alone is
// that of the device as well.
func parsePort(text string) (p score.Port, err error) {
	ports, protocol, named := strings.Cut(text, "/")
	if p.Protocol = strings.ToUpper(protocol); named && p.Protocol != score.ProtocolTCP && p.Protocol != score.ProtocolUDP {
		return p, errPort
	}
	host, container, both := cutLast(ports)
	if p.ContainerPort, err = parseNumber(container); err != nil {
		return p, err
	}
	p.HostPort = p.ContainerPort
	if !both {
		return p, nil
	}
	ip, port, withIP := cutLast(host)
	if p.HostPort, err = parseNumber(port); err != nil {
		return p, err
	}
	if withIP {
		if p.HostIP = strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]"); net.ParseIP(p.HostIP) == nil {
			return p, errPort
		}
	}
	return p, nil
}

// cutLast cuts a text at its last colon; all of it comes after one that is not there.
func cutLast(text string) (before, after string, found bool) {
	i := strings.LastIndexByte(text, ':')
	return text[:max(i, 0)], text[i+1:], i >= 0
}

func parseNumber(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, errPort
	}
	return int(n), nil
}

// apply applies a Deployment on the server.
func (o *runOptions) apply(cmd *cobra.Command, d *unstructured.Unstructured, namespace string, dryRun util.DryRunStrategy) error {
	c, err := o.client()
	if err != nil {
		return err
	}
	ctx, deployments := cmd.Context(), c.Deployments(namespace)
	before, err := deployments.Get(ctx, d.GetName(), metav1.GetOptions{})
	created := apierrors.IsNotFound(err)
	if err != nil && !created {
		return err
	}
	fields, err := d.MarshalJSON()
	if err != nil {
		return err
	}
	options := metav1.PatchOptions{FieldManager: o.manager, Force: &o.forceConflicts, FieldValidation: metav1.FieldValidationStrict}
	if dryRun == util.DryRunServer {
		options.DryRun = []string{metav1.DryRunAll}
	}
	after, err := deployments.Patch(ctx, d.GetName(), types.ApplyPatchType, fields, options)
	if apierrors.IsConflict(err) {
		return fmt.Errorf("%w: repeat the command with --force-conflicts to take these fields over", err)
	}
	if err != nil {
		return err
	}
	after.SetGroupVersionKind(kind)
	switch {
	case created:
		return o.show(cmd, after, "created", dryRun)
	case equality.Semantic.DeepEqual(before.Spec, after.Spec) && equality.Semantic.DeepEqual(before.Labels, after.Labels):
		return o.show(cmd, after, "unchanged", dryRun)
	}
	return o.show(cmd, after, "configured", dryRun)
}

// show prints what became of a Deployment, or the Deployment.
func (o *runOptions) show(cmd *cobra.Command, d runtime.Object, done string, dryRun util.DryRunStrategy) error {
	o.print.NamePrintFlags.Operation = done
	p, err := util.PrintFlagsWithDryRunStrategy(o.print, dryRun).ToPrinter()
	if err != nil {
		return err
	}
	return p.PrintObj(d, streams(cmd).Out)
}
