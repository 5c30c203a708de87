package ops

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// The ConfigMap with which a server tells operators how new devices reach it. Whoever
// may use the API may read it, so it has nothing secret.
const (
	DoorNamespace = metav1.NamespacePublic
	DoorName      = "fleet-enrollment"

	doorRoot      = "root"
	doorURL       = "url"
	doorPin       = "pin"
	doorInstaller = "installer"

	// theDoor is the ConfigMap in errors.
	theDoor = "ConfigMap " + DoorNamespace + "/" + DoorName
)

// Door is how new devices reach a server.
type Door struct {
	// Root is the SHA-256 of the server's newest root key, which tokens name.
	Root wire.Digest
	// URL is where devices enroll, https://HOST:PORT. It is empty when that is not known.
	URL string
	// Pin is the key of that address as curl's --pinnedpubkey takes it.
	Pin string
	// Installer is the URL of the script that installs a device, empty while the server has
	// no release to install.
	Installer string
}

// Publish writes a Door into the ConfigMap, unless it says so already. wrote tells
// whether it wrote.
func (d Door) Publish(ctx context.Context, api typedcorev1.ConfigMapsGetter) (wrote bool, err error) {
	data := map[string]string{doorRoot: d.Root.String(), doorURL: d.URL, doorPin: d.Pin}
	if d.Installer != "" {
		data[doorInstaller] = d.Installer
	}
	configMaps := api.ConfigMaps(DoorNamespace)
	there, err := configMaps.Get(ctx, DoorName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = configMaps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: DoorName, Namespace: DoorNamespace}, Data: data}, metav1.CreateOptions{})
	case err != nil:
	case maps.Equal(there.Data, data):
		return false, nil
	default:
		there.Data = data
		_, err = configMaps.Update(ctx, there, metav1.UpdateOptions{})
	}
	if err != nil {
		return false, fmt.Errorf("publishing how devices enroll: %w", err)
	}
	return true, nil
}

// ReadDoor reads the ConfigMap. What is in it becomes part of a line for a shell, so it
// has to have the form that servers write.
func ReadDoor(ctx context.Context, kube kubernetes.Interface) (Door, error) {
	c, err := kube.CoreV1().ConfigMaps(DoorNamespace).Get(ctx, DoorName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return Door{}, errors.New(theDoor + " is missing: the server that writes it is older, or has not started: create the token with `fleet-server token create` on its machine")
	}
	if err != nil {
		return Door{}, fmt.Errorf("reading how devices enroll: %w", err)
	}
	d := Door{URL: c.Data[doorURL], Pin: c.Data[doorPin], Installer: c.Data[doorInstaller]}
	if d.Root, err = parseDigest(c.Data[doorRoot]); err == nil {
		err = d.check()
	}
	if err != nil {
		return Door{}, fmt.Errorf(theDoor+" is damaged: %w: delete it, and the server writes it again", err)
	}
	return d, nil
}

func parseDigest(text string) (d wire.Digest, err error) {
	if !wire.ValidHash(text) {
		return d, fmt.Errorf("%s: %.80q is not a SHA-256 in hex", doorRoot, text)
	}
	_, err = hex.Decode(d[:], []byte(text))
	return d, err
}

var (
	pinForm  = regexp.MustCompile(`^sha256//[A-Za-z0-9+/]{43}=$`)
	hostForm = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$`)
	pathForm = regexp.MustCompile(`^(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+$`)
)

// check refuses what could not stand between quotes in a line for a shell.
func (d Door) check() error {
	if u, err := url.Parse(d.URL); err != nil || d.URL != "https://"+u.Host || !hostForm.MatchString(u.Host) {
		return fmt.Errorf("%s: %.80q does not have the form https://HOST:PORT", doorURL, d.URL)
	}
	if !pinForm.MatchString(d.Pin) {
		return fmt.Errorf("%s: %.80q does not have the form sha256//BASE64", doorPin, d.Pin)
	}
	if path, ok := strings.CutPrefix(d.Installer, d.URL); d.Installer != "" && (!ok || !pathForm.MatchString(path)) {
		return fmt.Errorf("%s: %.80q is not a path below %s", doorInstaller, d.Installer, d.URL)
	}
	return nil
}

// Explain says how a device is installed with a token, or nothing when it is not known
// where devices enroll.
func (d Door) Explain(w io.Writer, token wire.Token) error {
	var err error
	switch {
	case d.URL == "":
	case d.Installer == "":
		_, err = fmt.Fprintf(w, "\nOn a device with fleet-agent: fleet-agent enroll --server %s\nTo install devices from the gateway, import a release there: fleet-server bundle import FILE\n", d.URL)
	default:
		_, err = fmt.Fprintf(w, "\nOn the device, as root:\n  curl -fsS -k --pinnedpubkey '%s' %s | FLEET_TOKEN='%s' sh\n", d.Pin, d.Installer, token.Encode())
	}
	return err
}
