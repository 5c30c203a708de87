// Package secrets resolves the Secrets and ConfigMaps that scores name. Their content stays
// in the API store and in memory: manifests and the bus carry a keyed digest,
// and a device fetches the content over its own connection. A ConfigMap is called by its
// wire.ConfigMapName, so that both are in one list.
package secrets

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// The Secret that holds the key of digests. Without it, digests of guessed
// contents could be compared.
const (
	KeyName  = "fleet-secret-digests"
	keyField = "key"
	keySize  = 32
)

// Problems with what a score names; match them with errors.Is.
var (
	ErrMissing = errors.New("it does not exist")
	ErrTooLong = fmt.Errorf("it is longer than %d bytes", wire.MaxSecret)
	// ErrTooMuch is about all that one Deployment uses.
	ErrTooMuch = fmt.Errorf("all that the Deployment uses is longer than %d bytes", wire.MaxSecrets)
)

// Key returns the key of digests that the server's namespace has, and makes it at a first
// start.
func Key(ctx context.Context, client kubernetes.Interface, namespace string) ([]byte, error) {
	all := client.CoreV1().Secrets(namespace)
	s, err := all.Get(ctx, KeyName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		key := make([]byte, keySize)
		_, _ = rand.Read(key) // never fails, see crypto/rand
		s, err = all.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: KeyName}, Data: map[string][]byte{keyField: key}}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) { // another server was faster
			s, err = all.Get(ctx, KeyName, metav1.GetOptions{})
		}
	}
	if apierrors.IsInternalError(err) { // it cannot be decrypted
		return nil, fmt.Errorf("encryption.yaml is not the one of this database: restore both from the same backup (%w)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the key of secret digests: %w", err)
	}
	if len(s.Data[keyField]) < keySize {
		return nil, fmt.Errorf("the Secret %s/%s is damaged: delete it to make another", namespace, KeyName)
	}
	return s.Data[keyField], nil
}

// Resolver looks up Secrets and ConfigMaps in caches.
type Resolver struct {
	// Store and ConfigMaps are the caches of informers.
	Store, ConfigMaps cache.Store
	Key               []byte
}

// Data returns the content of a Secret or ConfigMap, or an error that wraps ErrMissing or
// ErrTooLong. The caller must not change it.
func (r *Resolver) Data(namespace, name string) (map[string][]byte, error) {
	data, there := r.find(namespace, name)
	switch {
	case !there:
		return nil, fmt.Errorf("the %s: %w", wire.DescribeObject(name), ErrMissing)
	case sizeOf(data) > wire.MaxSecret:
		return nil, fmt.Errorf("the %s: %w", wire.DescribeObject(name), ErrTooLong)
	}
	return data, nil
}

func (r *Resolver) find(namespace, name string) (data map[string][]byte, there bool) {
	store, is := r.Store, false
	if name, is = wire.ParseConfigMapName(name); is {
		store = r.ConfigMaps
	}
	o, there, err := store.GetByKey(namespace + "/" + name)
	if err != nil || !there {
		return nil, false
	}
	switch o := o.(type) {
	case *corev1.Secret:
		return o.Data, true
	case *corev1.ConfigMap:
		return contentOf(o), true
	}
	return nil, false
}

// contentOf is what a ConfigMap holds as text and as bytes: a key is in one of them alone.
func contentOf(c *corev1.ConfigMap) map[string][]byte {
	data := make(map[string][]byte, len(c.Data)+len(c.BinaryData))
	maps.Copy(data, c.BinaryData)
	for key, text := range c.Data {
		data[key] = []byte(text)
	}
	return data
}

func sizeOf(data map[string][]byte) (size int) {
	for k, v := range data {
		size += len(k) + len(v)
	}
	return size
}

// Digest returns the keyed digest of Secrets and ConfigMaps of one namespace, in hex: "" for
// none. Errors are as for Data, or wrap ErrTooMuch.
func (r *Resolver) Digest(namespace string, names []string) (string, error) {
	if len(names) == 0 {
		return "", nil
	}
	contents, size := make([]map[string][]byte, len(names)), 0
	for i, name := range names {
		data, err := r.Data(namespace, name)
		if err != nil {
			return "", err
		}
		contents[i] = data
		if size += sizeOf(data); size > wire.MaxSecrets {
			return "", fmt.Errorf("the %s: %w", wire.DescribeObject(name), ErrTooMuch)
		}
	}
	return r.digest(namespace, names, contents), nil
}

// Deliver returns the content of one of several objects that belong together, and the
// digest of all of them at the same time: the content is not of an earlier or later
// moment than the digest says. Errors are as for Data.
func (r *Resolver) Deliver(namespace string, names []string, name string) (data map[string][]byte, digest string, err error) {
	contents := make([]map[string][]byte, len(names))
	for i, n := range names {
		if contents[i], err = r.Data(namespace, n); err != nil {
			return nil, "", err
		}
		if n == name {
			data = contents[i]
		}
	}
	if data == nil {
		return nil, "", fmt.Errorf("the %s: %w", wire.DescribeObject(name), ErrMissing)
	}
	return data, r.digest(namespace, names, contents), nil
}

// digest is that of the contents of Secrets.
func (r *Resolver) digest(namespace string, names []string, contents []map[string][]byte) string {
	h := hmac.New(sha256.New, r.Key)
	for i, name := range names {
		data := contents[i]
		add(h, []byte(namespace))
		add(h, []byte(name))
		add(h, []byte{byte(len(data) >> 8), byte(len(data))})
		for _, key := range slices.Sorted(maps.Keys(data)) {
			add(h, []byte(key))
			add(h, data[key])
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// add writes a field with its length before it, so that no two lists of fields
// look the same.
func add(h hash.Hash, field []byte) {
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(field))))
	h.Write(field)
}
