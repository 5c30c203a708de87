package container

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Errors of a Runtime; match them with errors.Is. Their text is the runtime's
// own message, since it is what the operator will search for.
var (
	// ErrUnavailable: the runtime does not answer at all. It wraps
	// workload.ErrUnavailable.
	ErrUnavailable = fmt.Errorf("container runtime %w", workload.ErrUnavailable)
	// ErrImage: the image cannot be had.
	ErrImage = errors.New("image unavailable")
	// ErrImageInUse: a container was made from the image.
	ErrImageInUse = errors.New("image in use")
	// ErrNoSpace: there is no room for the image.
	ErrNoSpace = errors.New("no space")
	// ErrOutdated: the container can be started no more, as one that an earlier version of the
	// runtime made, or whose start the runtime did not survive; another one of the same Spec
	// would start.
	ErrOutdated = errors.New("container outdated")
	// ErrDamaged: something that the container needs is damaged on the disk.
	ErrDamaged = errors.New("damaged on the disk")
	// ErrPortInUse: something else listens on a host port.
	ErrPortInUse = errors.New("host port in use")
	// ErrNoLimit: the runtime cannot bound the size of a volume.
	ErrNoLimit = errors.New("the size of a volume cannot be bounded")
	// ErrNotFound: the container or volume is gone.
	ErrNotFound = errors.New("no such container or volume")
	// ErrNetworkInUse: a container is connected to the network.
	ErrNetworkInUse = errors.New("network in use")
)

// Runtime runs containers. The agent declares it so that planning and
// reconciling can be tested without podman; package podman implements it.
// Every method may return ErrUnavailable.
type Runtime interface {
	// Info describes the runtime itself.
	Info(ctx context.Context) (Info, error)
	// List returns the labelled containers in every state: those of one
	// Deployment, or all of them when ref is zero. The order is by name. While Watch sees all
	// that starts and ends, it may repeat what it found minutes ago of everything else.
	List(ctx context.Context, ref wire.DeploymentRef) ([]Container, error)
	// Create makes a container and returns its id. Volumes and its network must exist.
	Create(ctx context.Context, spec *Spec) (id string, err error)
	// Init prepares a container to run, as far as that can be done without running it: a
	// command that is not there is an error now. Ports are taken, too: it returns
	// ErrPortInUse among others.
	Init(ctx context.Context, id string) error
	// Rename gives a container another name, which nothing has, running or not.
	Rename(ctx context.Context, id, name string) error
	// Start starts a container; one that runs already is no error. It returns
	// ErrPortInUse, ErrOutdated or ErrNotFound among others.
	Start(ctx context.Context, id string) error
	// Stop asks the container to end, and kills it when it did not after grace. One
	// that does not run or is gone is no error.
	Stop(ctx context.Context, id string, grace time.Duration) error
	// Remove removes a container that does not run, and no volume; one that is gone is
	// no error.
	Remove(ctx context.Context, id string) error
	// Exec runs a command in a container that runs, until it ends. When ctx ends first, the
	// command goes on, and Exec returns its session beside the error of ctx.
	Exec(ctx context.Context, id string, command []string) (Execution, error)
	// Executing reports whether the command of a session still runs.
	Executing(ctx context.Context, session string) (bool, error)
	// Logs hands what a container wrote to sink, in order, and returns an error of sink.
	// That may begin with earlier runs, and may have been cut off long ago. It returns
	// ErrNotFound among others.
	Logs(ctx context.Context, id string, o LogOptions, sink func(Piece) error) error
	// Attach runs a command as Exec does, connects it with streams, and returns its exit
	// code. A command that is not there, or may not be run, has the code 127 or 126, and
	// the reason is part of its output. When ctx ends, the command may go on. Errors of
	// the writers are returned.
	Attach(ctx context.Context, id string, a Attachment) (code int, err error)
	// Signal sends a signal to the first process of a container that runs. One that does
	// not run or is gone is no error.
	Signal(ctx context.Context, id string, signal syscall.Signal) error
	// Unpack unpacks a tar archive in a directory of a container that does not run, in
	// order, and replaces what is there. Owners are as the container sees them.
	Unpack(ctx context.Context, id, directory string, archive []byte) error
	// ReadFile returns the content of a file in a container, of at most 4 KiB. It returns
	// ErrNotFound among others.
	ReadFile(ctx context.Context, id, path string) ([]byte, error)
	// Clear kills and removes a container, whatever the runtime believes that it does,
	// and no volume; one that is gone is no error.
	Clear(ctx context.Context, id string) error
	// ImageExists reports whether the image is on the device.
	ImageExists(ctx context.Context, image string) (bool, error)
	// Image returns what an image on the device says of itself. It returns ErrNotFound for
	// one that is not there.
	Image(ctx context.Context, image string) (Image, error)
	// Images lists the images on the device, but for those that are only parts of others.
	Images(ctx context.Context) ([]StoredImage, error)
	// RemoveImage takes a name from its image, which is removed with its last one, or
	// removes the image of an id that has one name at most. One that is gone is no error.
	// It returns ErrImageInUse.
	RemoveImage(ctx context.Context, nameOrID string) error
	// Pull fetches an image, with logins beside those that the runtime has by itself. It
	// returns ErrImage.
	Pull(ctx context.Context, image string, logins ...Login) error
	// EnsureVolume makes a volume of a Deployment unless it exists. When it is made
	// for another volume, adopts, it stands for that from then on, and that is made if the
	// runtime does not know it any more: with what is there of its data. It returns the
	// volume to mount: that which it stands for, if that is there, or itself. A size in
	// bytes bounds one that is made; 0 is for none. It returns ErrNoLimit.
	EnsureVolume(ctx context.Context, ref wire.DeploymentRef, name, adopts string, size int64) (volume string, err error)
	// Volumes returns the names of the volumes of a Deployment in order, with those
	// that they stand for, or of all Deployments when ref is zero.
	Volumes(ctx context.Context, ref wire.DeploymentRef) ([]string, error)
	// RemoveVolume removes a volume; one that is gone is no error.
	RemoveVolume(ctx context.Context, name string) error
	// EnsureNetwork makes the network of containers with NetworkBridge or NetworkShared unless
	// it exists.
	EnsureNetwork(ctx context.Context, n *Network) error
	// Networks returns the names of the networks of a Deployment, and of those that
	// Deployments of its namespace share, in order; those of all when ref is zero.
	Networks(ctx context.Context, ref wire.DeploymentRef) ([]string, error)
	// RemoveNetwork removes a network that no container is connected to, running or not, and
	// returns ErrNetworkInUse otherwise; one that is gone is no error.
	RemoveNetwork(ctx context.Context, name string) error
	// HaltNetwork gives back the ports of a network, whose containers do not run; one that is
	// gone is no error. The next container that starts takes them again.
	HaltNetwork(ctx context.Context, name string) error
	// RenewNames starts the server of names anew that containers of a NetworkBridge ask, if it
	// has ended. image is one that is on the device.
	RenewNames(ctx context.Context, network, image string) error
	// ClearNames removes what an interrupted RenewNames left; nothing is no error.
	ClearNames(ctx context.Context) error
	// EnsureSecret makes a secret unless one of the name exists. Names begin with
	// LabelValue of their Deployment and an underscore. There is none without content.
	EnsureSecret(ctx context.Context, name string, content []byte) error
	// Secrets returns the names of the secrets of a Deployment in order, or of all
	// of them when ref is zero.
	Secrets(ctx context.Context, ref wire.DeploymentRef) ([]string, error)
	// RemoveSecret removes a secret; one that is gone is no error.
	RemoveSecret(ctx context.Context, name string) error
	// Watch calls changed whenever a labelled container starts or has no process any more,
	// and perhaps at other changes, until ctx ends or that cannot be seen any more. It calls
	// ready once changes will be seen.
	Watch(ctx context.Context, ready func(), changed func(wire.DeploymentRef)) error
}

// Image is what an image says of itself.
type Image struct {
	ID string
	// Volumes are the paths that it declares as volumes, in order.
	Volumes []string
	// HealthCheck is nil for none.
	HealthCheck *Probe
	// User is who runs its command: NAME or NUMBER, and perhaps a group after a colon;
	// empty for root.
	User string
	// Arch and OS are what it was built for, for example "amd64" and "linux"; empty when it
	// does not say.
	Arch, OS string
	// Annotations are the keys of those of its annotations that runtimes act upon.
	Annotations []string
}

// StoredImage is an image on the device as it is found among others.
type StoredImage struct {
	ID string
	// Names are its names with tags. An image whose name another one got has none.
	Names []string
	// Digests are names with "@" and the digest of what was pulled.
	Digests []string
	// Used: a container was made from it, or it has names that are not told.
	Used bool
}

// Login is what a registry of images wants to see. It must not be logged.
type Login struct {
	// Registry is HOST:PORT, as it stands before the name of an image.
	Registry       string
	User, Password string
}

// Info describes a runtime.
type Info struct {
	// Version is, for example, "5.4.2".
	Version string
	// Arch is that of the device, for example "amd64"; empty when the runtime cannot tell.
	Arch string
	// Controllers are the controllers of control groups that containers may use, for
	// example "memory"; nil when the runtime cannot tell.
	Controllers []string
	// NoBridge and NoShared say why there are no networks of a mode; empty when there are.
	NoBridge, NoShared string
	// Driver is how images are stored, for example "overlay"; empty when the
	// runtime cannot tell.
	Driver string
	// StoreRoot is where they are stored.
	StoreRoot string
	// StoreSize and StoreUsed are about the file system that holds images and
	// containers, in bytes; zero when the runtime cannot tell.
	StoreSize, StoreUsed uint64
}
