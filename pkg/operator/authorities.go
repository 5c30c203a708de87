package operator

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

// authoritiesName is the Secret that holds the files of the authorities, and of the serving
// certificate, whose key clients may know.
const authoritiesName = "fleet-authorities"

// authorities keeps the files of a PKI, which works in a directory, in a Secret.
type authorities struct {
	secrets typedcorev1.SecretInterface
	dir     string
}

// fetch puts the files of the Secret, if there is one, into the directory.
func (a *authorities) fetch(ctx context.Context) error {
	s, err := a.secrets.Get(ctx, authoritiesName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the authorities: %w", err)
	}
	if len(s.Data) == 0 {
		return fmt.Errorf("the Secret %s is empty: restore it from a backup, or delete it for new authorities, at which every device enrolls again", authoritiesName)
	}
	for name, data := range s.Data {
		if filepath.Base(name) != name {
			return fmt.Errorf("the Secret %s names a file outside: %q", authoritiesName, name)
		}
		if err := os.WriteFile(filepath.Join(a.dir, name), data, 0o600); err != nil {
			return fmt.Errorf("writing the authorities: %w", err)
		}
	}
	return nil
}

// keep puts what the directory holds into the Secret. Of two first starts, one keeps its own,
// and the other is told to begin again.
func (a *authorities) keep(ctx context.Context) error {
	files, err := a.files()
	if err != nil {
		return err
	}
	return write(ctx, a.secrets, authoritiesName, corev1.SecretTypeOpaque, files)
}

// write makes a Secret what it should be, if it is not.
func write(ctx context.Context, secrets typedcorev1.SecretInterface, name string, kind corev1.SecretType, data map[string][]byte) error {
	s, err := secrets.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: kind, Data: data}, metav1.CreateOptions{})
	case err == nil && !maps.EqualFunc(s.Data, data, bytes.Equal):
		s.Data = data
		_, err = secrets.Update(ctx, s, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("writing Secret %s: %w", name, err)
	}
	return nil
}

func (a *authorities) files() (map[string][]byte, error) {
	entries, err := os.ReadDir(a.dir)
	if err != nil {
		return nil, fmt.Errorf("reading the authorities: %w", err)
	}
	files := map[string][]byte{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(a.dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading the authorities: %w", err)
		}
		files[e.Name()] = data
	}
	return files, nil
}
